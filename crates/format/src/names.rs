//! Tables that map other generations of tensor names onto the published one.

use std::borrow::Cow;

/// One rename: dotted patterns in which `*` stands for one part and `**` for any number of parts (none included).
/// Wildcards of the right side take what those of the left side matched, in order; `*+1` and `*-1` take a number, so much
/// more or less, and a name without a number there, or with one below that, is no match. A part `#` on the right says that
/// the stored tensor holds several, one per entry of its first dimension: they are read as tensors of their own, with
/// their number in its place.
pub type Rename = (&'static str, &'static str);

/// Which names a model accepts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names {
    rules: &'static [Rename],
    ignore: &'static [&'static str],
    /// Another generation: a tensor that it alone has, and renames that go before the others.
    other: Option<(&'static str, &'static [Rename])>,
    /// Those renames, in a checkpoint of that generation.
    first: &'static [Rename],
}

impl Names {
    /// Renames, tried in order, every rule that matches once; and buffers that carry no weights
    /// (`embeddings.position_ids`), as patterns on the renamed name.
    pub const fn new(rules: &'static [Rename], ignore: &'static [&'static str]) -> Self {
        Names { rules, ignore, other: None, first: &[] }
    }

    /// A generation that means other tensors by names of this one: it is told by `marker`, a tensor that it alone has, and
    /// its renames go before the others.
    pub const fn or(self, marker: &'static str, rules: &'static [Rename]) -> Self {
        Names { other: Some((marker, rules)), ..self }
    }

    /// The table for a checkpoint of these tensors.
    pub fn among<'a>(&self, mut tensors: impl Iterator<Item = &'a str>) -> Self {
        match self.other {
            Some((marker, first)) if tensors.any(|t| t == marker) => Names { first, ..*self },
            _ => *self,
        }
    }

    /// The name under which the model file asks for this tensor; see [`Names::among`].
    pub fn canonical(&self, name: &str) -> String {
        let mut name = name.to_string();
        for (from, to) in self.first.iter().chain(self.rules) {
            if let Some(new) = rename(&name, from, to) {
                name = new;
            }
        }
        name
    }

    /// Names of the `n` tensors that a stored one holds, where its rule says that there are several in it.
    pub fn parts(canonical: &str, n: usize) -> Option<Vec<String>> {
        let (front, back) = canonical.split_once(".#.")?;
        Some((0..n).map(|i| format!("{front}.{i}.{back}")).collect())
    }

    /// Whether a renamed tensor is a known buffer to skip.
    pub fn ignored(&self, name: &str) -> bool {
        self.ignore.iter().any(|p| rename(name, p, "").is_some())
    }
}

fn rename(name: &str, from: &str, to: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('.').collect();
    let pattern: Vec<&str> = from.split('.').collect();
    let mut caught = Vec::new();
    if !matches(&parts, &pattern, &mut caught) {
        return None;
    }
    let mut caught = caught.into_iter();
    let mut out: Vec<Cow<str>> = Vec::new();
    for part in to.split('.').filter(|p| !p.is_empty()) {
        match part {
            "*" | "**" => out.extend(caught.next().unwrap_or_default().iter().map(|p| Cow::Borrowed(*p))),
            word => match word.strip_prefix('*') {
                Some(by) => out.push(shifted(caught.next()?.first()?, by)?.into()),
                None => out.push(word.into()),
            },
        }
    }
    Some(out.join("."))
}

/// The number of a part, more or less by the signed number `by`.
fn shifted(part: &str, by: &str) -> Option<String> {
    let n: u32 = part.parse().ok()?;
    // A number that is written in another way is another name.
    (n.to_string() == part).then_some(())?;
    n.checked_add_signed(by.parse().ok()?).map(|n| n.to_string())
}

/// Names come from files: nothing is copied while matching, and a second `**` would make it quadratic.
fn matches<'a, 'b>(parts: &'a [&'b str], pattern: &[&str], caught: &mut Vec<&'a [&'b str]>) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return parts.is_empty() };
    let mut catch = |n: usize| {
        let (head, tail) = parts.split_at(n);
        caught.push(head);
        matches(tail, rest, caught) || {
            caught.pop();
            false
        }
    };
    match *first {
        "**" => (0..=parts.len()).any(catch),
        "*" => !parts.is_empty() && catch(1),
        word => parts.split_first().is_some_and(|(head, tail)| *head == word && matches(tail, rest, caught)),
    }
}

/// The candidate closest to `name` by shared dotted parts and letters, for error messages.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    let own = pairs(name);
    candidates
        .take(2_000)
        .map(|c| (similarity(&own, &pairs(c)), c))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(s, _)| *s > 0.5)
        .map(|(_, c)| c.to_string())
}

/// The letter pairs of a name, sorted.
fn pairs(s: &str) -> Vec<[u8; 2]> {
    let mut pairs: Vec<[u8; 2]> = s.as_bytes().windows(2).take(256).map(|w| [w[0], w[1]]).collect();
    pairs.sort_unstable();
    pairs
}

/// Share of letter pairs that two names have in common (Dice coefficient on bigrams).
fn similarity(a: &[[u8; 2]], b: &[[u8; 2]]) -> f64 {
    let (mut i, mut j, mut common) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => (i, j, common) = (i + 1, j + 1, common + 1),
        }
    }
    let total = a.len() + b.len();
    if total == 0 { 0.0 } else { 2.0 * common as f64 / total as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renames_whole_generations() {
        let names = Names::new(
            &[
                ("bert.**", "**"),
                ("**.gamma", "**.weight"),
                ("blocks.*.attn.qkv.*", "encoder.layer.*.attention.attention.qkv.*"),
            ],
            &["embeddings.position_ids"],
        );
        assert_eq!(names.canonical("bert.a.LayerNorm.gamma"), "a.LayerNorm.weight");
        assert_eq!(names.canonical("blocks.11.attn.qkv.bias"), "encoder.layer.11.attention.attention.qkv.bias");
        assert_eq!(names.canonical("berta.x"), "berta.x");
        assert!(names.ignored("embeddings.position_ids"));
        assert!(!names.ignored("embeddings.position_embeddings"));
    }

    #[test]
    fn numbers_are_shifted() {
        let names = Names::new(&[("layers.*.downsample.**", "stages.*-1.merge.**"), ("a.*", "b.*+1.c")], &[]);
        assert_eq!(names.canonical("layers.10.downsample.norm.bias"), "stages.9.merge.norm.bias");
        assert_eq!(names.canonical("a.0"), "b.1.c");
        for same in
            ["layers.0.downsample.x", "layers.x.downsample.y", "layers.01.downsample.x", "a.99999999999", "a.-1"]
        {
            assert_eq!(names.canonical(same), same);
        }
    }

    #[test]
    fn nearest_finds_the_typo() {
        let have = ["encoder.layer.0.output.dense.weight", "pooler.dense.bias"];
        assert_eq!(nearest("encoder.layer.0.output.dens.weight", have.into_iter()).as_deref(), Some(have[0]));
        assert_eq!(nearest("zzz", have.into_iter()), None);
    }
}
