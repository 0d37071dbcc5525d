//! Places in a model, as patterns over the dotted names of its tensors.

/// Paths such as `encoder.layer.`, each from the root or from any part of a name on: `block.` covers both
/// `encoder.block.0.` and `decoder.block.0.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sites(Vec<String>);

impl Sites {
    /// Everything at or below one of the paths.
    pub fn new(paths: &[impl AsRef<str>]) -> Self {
        Sites(paths.iter().map(|p| p.as_ref().to_string()).collect())
    }

    /// Whether a tensor or path is inside.
    pub fn covers(&self, name: &str) -> bool {
        self.below(name).is_some()
    }

    /// What follows the path in a name that is inside.
    pub fn below<'a>(&self, name: &'a str) -> Option<&'a str> {
        let begins = |at: usize| at == 0 || name.as_bytes()[at - 1] == b'.';
        let inside = |path: &String| name.match_indices(path.as_str()).find(|(at, _)| begins(*at));
        self.0.iter().find_map(|path| inside(path).map(|(at, _)| &name[at + path.len()..]))
    }

    /// The number of a block in the name of something inside it.
    pub fn block_of(&self, name: &str) -> Option<usize> {
        self.below(name)?.split('.').next()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_at_parts_of_names() {
        let sites = Sites::new(&["attn.", "block."]);
        assert!(sites.covers("attn.q.weight") && sites.covers("decoder.block.3.layer.0.k"));
        assert!(!sites.covers("cross_attn.q") && !sites.covers("encoder.blocks.1"));
        assert_eq!(sites.block_of("decoder.block.3.layer.0.k"), Some(3));
        assert_eq!(sites.block_of("x.attn.q"), None);
    }
}
