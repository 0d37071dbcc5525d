//! The published sizes of a family: `variants/<model_type>.json`, compiled in and read once, strictly.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::{Map, Value as Json};
use switchformer_nn::{Error, Result, json};

/// Config fields of a published size or a constructor.
pub type Fields = Map<String, Json>;

/// The file of a family.
pub struct Published {
    text: &'static str,
    read: OnceLock<Result<Sizes>>,
}

/// What the file of a family holds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Published sizes.
    pub variants: Vec<Variant>,
    /// How timm's form of the family differs from ours.
    #[serde(default)]
    pub timm: Constructor,
}

/// A published size of a model.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Published name.
    pub name: String,
    /// Architecture that the count is for.
    pub architecture: String,
    /// Published or reference parameter count.
    pub params: u64,
    /// Config fields that differ from the family's defaults.
    pub config: Fields,
}

/// Config fields of timm's form that are not our own defaults.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Constructor {
    /// Fields that always have these values in timm.
    pub fixed: Fields,
    /// What the constructor takes for arguments that a bare family leaves out.
    pub bare: Fields,
    /// Sizes that timm names otherwise than they were published, or has beside them.
    pub names: BTreeMap<String, Fields>,
    /// What a model without classes is.
    pub classless: Fields,
}

impl Published {
    /// The text of a file, which is read when it is first asked for.
    pub const fn new(text: &'static str) -> Published {
        Published { text, read: OnceLock::new() }
    }

    /// What the file of this family holds. Errors name the file (a test reads all of them).
    pub(crate) fn sizes(&self, family: &str) -> Result<&Sizes> {
        let file = format!("variants/{family}.json");
        let read = self.read.get_or_init(|| Sizes::parse(self.text.as_bytes(), Path::new(&file)));
        read.as_ref().map_err(|e| Error::config("variants", e.to_string()))
    }
}

impl Sizes {
    /// Reads the text of a file, strictly: no unknown key, none twice.
    pub fn parse(text: &[u8], file: &Path) -> Result<Sizes> {
        json::typed(json::parse(text, file)?, file)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_strictly_and_named_where_it_is_wrong() {
        let sizes = |text: &'static str| Published::new(text).sizes("x").cloned().map_err(|e| e.to_string());
        let size = r#"{"variants": [{"name": "a", "architecture": "A", "params": 1, "config": {"width": 8}}]}"#;
        let read = sizes(size).unwrap();
        assert_eq!((&*read.variants[0].name, &read.variants[0].config["width"]), ("a", &Json::from(8)));
        assert_eq!(read.timm, Constructor::default());
        for (wrong, why) in [
            (r#"{"variants": [], "variants": []}"#, "duplicate key"),
            (r#"{"variants": [], "sizes": []}"#, "sizes"),
            (r#"{"variants": [], "timm": {"bear": {}}}"#, "bear"),
            (r#"{"variants": [{"name": "a", "architecture": "A", "params": -1, "config": {}}]}"#, "-1"),
            (r#"{"variants": [{"name": "a", "architecture": "A", "params": 1}]}"#, "config"),
        ] {
            let said = sizes(wrong).unwrap_err();
            assert!(said.contains("variants/x.json") && said.contains(why), "{said}");
        }
    }
}
