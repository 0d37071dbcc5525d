//! What a model takes: one slot for every named part of its input.

use std::fmt;

use crate::error::{Error, Result};
use crate::rows::Size;

/// What a slot holds. Shapes are those of the tensor that a caller gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Token ids below `vocab`, `[b, n]`.
    Ids {
        /// Vocabulary size.
        vocab: usize,
        /// Longest sequence, or the longest it was trained on where longer ones work.
        max_len: usize,
    },
    /// Images, `[b, channels, h, w]`.
    Maps {
        /// Colour channels.
        channels: usize,
        /// Height and width the checkpoint was trained at.
        size: Size,
        /// Side of a patch.
        patch: Size,
    },
    /// Vectors, `[b, n, width]`.
    Rows {
        /// Numbers of a vector.
        width: usize,
    },
    /// Numbers of a member, `[b, ..]`.
    PerMember {
        /// Shape of one member's.
        shape: Vec<usize>,
    },
}

/// One named part of a model's input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Hugging Face's name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether a model runs without it.
    pub optional: bool,
    /// Name of the tensor that marks valid places with 1 and padding with 0.
    pub mask: Option<&'static str>,
    /// The slot whose rows it describes: equal shape, equal mask.
    pub along: Option<&'static str>,
    /// Whether it may have another number of entries than there are members.
    pub own_number: bool,
}

impl Slot {
    /// A slot that must be given, without a mask.
    pub fn new(name: &'static str, kind: Kind) -> Slot {
        Slot { name, kind, optional: false, mask: None, along: None, own_number: false }
    }
}

/// The slots of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputSpec {
    slots: Vec<Slot>,
}

impl InputSpec {
    /// A text, `input_ids`.
    pub fn text(vocab: usize, max_len: usize) -> InputSpec {
        let kind = Kind::Ids { vocab, max_len };
        InputSpec::default().with(Slot { mask: Some("attention_mask"), ..Slot::new("input_ids", kind) })
    }

    /// Images, `pixel_values`.
    pub fn images(channels: usize, size: Size, patch: Size) -> InputSpec {
        InputSpec::default().with(Slot::new("pixel_values", Kind::Maps { channels, size, patch }))
    }

    /// With segment ids below `types` for every token of `input_ids`, zeros where none are given.
    pub fn with_types(self, types: usize) -> InputSpec {
        let kind = Kind::Ids { vocab: types, max_len: usize::MAX };
        let slot = Slot::new("token_type_ids", kind);
        self.with(Slot { optional: true, mask: Some("attention_mask"), along: Some("input_ids"), ..slot })
    }

    /// With a second text, the one being written, `decoder_input_ids`.
    pub fn with_target(self, vocab: usize, max_len: usize) -> InputSpec {
        let slot = Slot::new("decoder_input_ids", Kind::Ids { vocab, max_len });
        self.with(Slot { mask: Some("decoder_attention_mask"), ..slot })
    }

    /// With one more slot.
    pub fn with(mut self, slot: Slot) -> InputSpec {
        self.slots.push(slot);
        self
    }

    /// Without the slot of this name.
    pub fn without(mut self, name: &str) -> InputSpec {
        self.slots.retain(|s| s.name != name);
        self
    }

    /// All slots.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Whether there is a slot of this name.
    pub fn takes(&self, name: &str) -> bool {
        self.kind(name).is_some()
    }

    /// What the slot of a name holds.
    pub fn kind(&self, name: &str) -> Option<&Kind> {
        self.slots.iter().find(|s| s.name == name).map(|s| &s.kind)
    }

    /// Vocabulary and longest length of a text model's `input_ids`. Errors where it reads no text.
    pub fn text_size(&self) -> Result<(usize, usize)> {
        match self.kind("input_ids") {
            Some(Kind::Ids { vocab, max_len }) => Ok((*vocab, *max_len)),
            _ => Err(Error::input("this model reads no text", format!("it takes {self}"))),
        }
    }

    /// Channels, trained size and patch of an image model's `pixel_values`. Errors where it reads no images.
    pub fn image_size(&self) -> Result<(usize, Size, Size)> {
        match self.kind("pixel_values") {
            Some(Kind::Maps { channels, size, patch }) => Ok((*channels, *size, *patch)),
            _ => Err(Error::input("this model reads no images", format!("it takes {self}"))),
        }
    }
}

impl fmt::Display for InputSpec {
    /// Names of tensors, as a caller gives them.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut names: Vec<&str> = Vec::new();
        for slot in &self.slots {
            names.extend(
                [Some(slot.name), slot.mask].into_iter().flatten().filter(|n| !names.contains(n)).collect::<Vec<_>>(),
            );
        }
        f.write_str(&names.join(", "))
    }
}

/// The error where a part of an input is not there.
pub(crate) fn missing(name: &str) -> Error {
    let (what, hint) = match name {
        "input_ids" => ("this model reads text".to_string(), "give --text or input_ids".to_string()),
        "pixel_values" => ("this model reads images".into(), "give --image or pixel_values".into()),
        "decoder_input_ids" => (
            "this model reads one text and writes another".into(),
            "give decoder_input_ids beside input_ids, or generate with --text".into(),
        ),
        other => (format!("`{other}` is missing"), "give a tensor of this name".into()),
    };
    Error::input(what, hint)
}

/// The error where a part is given that a model does not take.
pub(crate) fn unknown(name: &str, spec: &InputSpec) -> Error {
    Error::input(format!("unknown input `{name}`"), format!("this model takes {spec}"))
}
