//! What goes into a model and what comes out, with Hugging Face's names.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::config::MAX_SIDE;
use crate::error::{Error, Result};
use crate::rows::Rows;

/// Input of a model.
#[derive(Clone, Debug)]
pub enum Input {
    /// Packed text: all members one after another.
    Tokens {
        /// Token ids of all members, `[total]`.
        ids: Vec<u32>,
        /// Segment ids of all members, `[total]`.
        types: Vec<u32>,
        /// Column each token had in the padded tensor (its own index where there was none), `[total]`.
        columns: Vec<u32>,
        /// Members and their lengths.
        rows: Rows,
    },
    /// Images `[b, c, h, w]`, f32, already normalised.
    Pixels(Tensor),
    /// Text to read and text being written, member by member; made by [`Input::pair`].
    Pair {
        /// What the encoder reads.
        source: Box<Input>,
        /// What the decoder has written, its start token first.
        target: Box<Input>,
    },
}

impl Input {
    /// Packs token sequences of unequal length; segment ids are zero.
    pub fn tokens<S: AsRef<[u32]>>(sequences: &[S]) -> Result<Input> {
        let rows = Rows::new(&sequences.iter().map(|s| s.as_ref().len()).collect::<Vec<_>>())?;
        let ids: Vec<u32> = sequences.iter().flat_map(|s| s.as_ref().iter().copied()).collect();
        Ok(Input::Tokens { types: vec![0; ids.len()], columns: rows.positions().to_vec(), ids, rows })
    }

    /// Packs padded tensors as Hugging Face passes them. Shapes: all `[b, n]`; rows with mask 0 disappear here.
    pub fn padded(ids: &Tensor, mask: Option<&Tensor>, types: Option<&Tensor>) -> Result<Input> {
        let (b, n) = ids.dims2().map_err(|_| Error::shape("input_ids", "[b, n]", ids.dims()))?;
        let all = |t: &Tensor, name: &str| -> Result<Vec<i64>> {
            if t.dims() != [b, n] {
                return Err(Error::shape(name, format!("[{b}, {n}]"), t.dims()));
            }
            Ok(t.to_dtype(DType::I64)?.flatten_all()?.to_vec1()?)
        };
        let id_of = |v: i64, name: &str| {
            u32::try_from(v).map_err(|_| Error::input(format!("{name} holds {v}"), "ids are whole numbers from 0"))
        };
        let raw = all(ids, "input_ids")?;
        let mask = mask.map(|m| all(m, "attention_mask")).transpose()?;
        let seg = types.map(|t| all(t, "token_type_ids")).transpose()?;
        if let Some(bad) = mask.iter().flatten().find(|m| !(0..=1).contains(*m)) {
            return Err(Error::input(format!("attention_mask holds {bad}"), "use 1 for valid and 0 for padding"));
        }
        let (mut out, mut out_types, mut columns, mut lens) = (vec![], vec![], vec![], vec![]);
        for i in 0..b {
            let before = out.len();
            for c in 0..n {
                let k = i * n + c;
                if mask.as_ref().is_none_or(|m| m[k] == 1) {
                    out.push(id_of(raw[k], "input_ids")?);
                    out_types.push(seg.as_ref().map_or(Ok(0), |s| id_of(s[k], "token_type_ids"))?);
                    columns.push(c as u32);
                }
            }
            lens.push(out.len() - before);
        }
        Ok(Input::Tokens { ids: out, types: out_types, columns, rows: Rows::new(&lens)? })
    }

    /// What an encoder-decoder takes. Errors unless both are text of equally many members.
    pub fn pair(source: Input, target: Input) -> Result<Input> {
        let text = |i: &Input| matches!(i, Input::Tokens { .. });
        if !text(&source) || !text(&target) {
            return Err(Error::input("a pair holds something other than text", "give input_ids and decoder_input_ids"));
        }
        if source.n() != target.n() {
            let what = format!("{} texts to read and {} to write", source.n(), target.n());
            return Err(Error::input(what, "input_ids and decoder_input_ids need the same number of rows"));
        }
        Ok(Input::Pair { source: Box::new(source), target: Box::new(target) })
    }

    /// The part of the input that the rows of an output stand for: of a pair, `encoder_last_hidden_state` belongs to
    /// the source and everything else to the target.
    pub fn part_of(&self, output: &str) -> &Input {
        match self {
            Input::Pair { source, .. } if output == "encoder_last_hidden_state" => source,
            Input::Pair { target, .. } => target,
            other => other,
        }
    }

    /// The images `[b, channels, h, w]`. Errors on anything else.
    pub fn pixels(&self, channels: usize) -> Result<&Tensor> {
        let Input::Pixels(pixels) = self else {
            return Err(Error::input("this model reads images", "give --image or pixel_values"));
        };
        if pixels.dtype() != DType::F32 {
            let what = format!("pixel_values are {:?}", pixels.dtype());
            return Err(Error::input(what, "give F32, normalised as the checkpoint's preprocessor_config.json says"));
        }
        match pixels.dims() {
            [_, c, h, w] if *c == channels && [h, w].iter().any(|n| !(1..=MAX_SIDE).contains(*n)) => Err(Error::input(
                format!("an image of {h}x{w} has a side outside 1 to {MAX_SIDE}"),
                "resize it as the checkpoint's preprocessor_config.json says",
            )),
            [_, c, ..] if *c == channels && pixels.rank() == 4 => Ok(pixels),
            other => Err(Error::shape("pixel_values", format!("[b, {channels}, h, w]"), other)),
        }
    }

    /// Number of members.
    pub fn n(&self) -> usize {
        match self {
            Input::Tokens { rows, .. } => rows.n(),
            Input::Pixels(t) => t.dims().first().copied().unwrap_or(0),
            Input::Pair { source, .. } => source.n(),
        }
    }
}

/// What a model accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputSpec {
    /// Token ids below `vocab`, at most `max_len` of them.
    Tokens {
        /// Vocabulary size.
        vocab: usize,
        /// Longest sequence.
        max_len: usize,
    },
    /// Pairs of texts, read and written: token ids below `vocab`.
    Pair {
        /// Vocabulary size.
        vocab: usize,
        /// Longest text it was trained on; longer ones work.
        max_len: usize,
    },
    /// Images.
    Pixels {
        /// Colour channels.
        channels: usize,
        /// Height and width the checkpoint was trained at.
        size: (usize, usize),
        /// Side of a patch.
        patch: (usize, usize),
    },
}

/// One named output.
#[derive(Clone, Debug)]
pub enum Value {
    /// One entry per member, `[b, ..]`.
    PerMember(Tensor),
    /// One entry per packed row, `[total, ..]`, with the rows it belongs to.
    PerRow(Tensor, Rows),
}

/// Named outputs of a model, under Hugging Face's names (`logits`, `last_hidden_state`, `pooler_output`, ...).
#[derive(Clone, Debug, Default)]
pub struct Output {
    values: BTreeMap<String, Value>,
}

impl Output {
    /// No output yet.
    pub fn new() -> Self {
        Output::default()
    }

    /// Adds an output with one entry per member.
    pub fn member(mut self, name: &str, t: Tensor) -> Self {
        self.values.insert(name.into(), Value::PerMember(t));
        self
    }

    /// Adds an output with one entry per row.
    pub fn rows(mut self, name: &str, t: Tensor, rows: &Rows) -> Self {
        self.values.insert(name.into(), Value::PerRow(t, rows.clone()));
        self
    }

    /// Only the named outputs.
    pub fn only(mut self, names: &[&str]) -> Self {
        self.values.retain(|k, _| names.contains(&k.as_str()));
        self
    }

    /// All outputs by name.
    pub fn values(&self) -> &BTreeMap<String, Value> {
        &self.values
    }

    /// An output with one entry per member, `[b, ..]`.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        match self.values.get(name) {
            Some(Value::PerMember(t)) => Ok(t),
            Some(Value::PerRow(..)) => Err(Error::input(format!("`{name}` has one entry per token"), "pool it first")),
            None => Err(Error::input(
                format!("this model gives no `{name}`"),
                format!("it gives: {}", self.values.keys().cloned().collect::<Vec<_>>().join(", ")),
            )),
        }
    }

    /// An output with one entry per row.
    pub fn get_rows(&self, name: &str) -> Option<(&Tensor, &Rows)> {
        match self.values.get(name) {
            Some(Value::PerRow(t, r)) => Some((t, r)),
            _ => None,
        }
    }

    /// Joins outputs of parts of a batch back into the original order of `n` members.
    ///
    /// Only outputs that every part has survive; per-row outputs survive when there is a single part.
    pub fn merge(parts: Vec<(Vec<u32>, Output)>, n: usize) -> Result<Output> {
        let mut parts: Vec<_> = parts.into_iter().filter(|(m, _)| !m.is_empty()).collect();
        let in_order = |m: &[u32]| m.len() == n && m.iter().enumerate().all(|(i, v)| i as u32 == *v);
        if parts.len() == 1 && in_order(&parts[0].0) {
            return Ok(parts.remove(0).1);
        }
        let Some((_, first)) = parts.first() else { return Ok(Output::new()) };
        let mut merged = Output::new();
        for name in first.values.keys() {
            let tensors: Option<Vec<&Tensor>> = parts.iter().map(|(_, o)| o.get(name).ok()).collect();
            let Some(tensors) = tensors else { continue };
            let joined = Tensor::cat(&tensors, 0)?;
            let mut order = vec![u32::MAX; n];
            for (row, member) in parts.iter().flat_map(|(m, _)| m).enumerate() {
                order[*member as usize] = row as u32;
            }
            // A member that left without an answer must never be given another's.
            if let Some(i) = order.iter().position(|row| *row == u32::MAX) {
                let what = format!("member {i} has no `{name}`");
                return Err(Error::input(what, "a rule let it leave without an output"));
            }
            let order = Tensor::from_vec(order, n, &Device::Cpu)?;
            merged = merged.member(name, joined.index_select(&order, 0)?);
        }
        Ok(merged)
    }
}

/// Spreads packed rows into `[b, n, ..]`, zeros where there is no row. `columns` gives each row's place.
pub fn unpack(t: &Tensor, rows: &Rows, columns: &[u32], n: usize) -> Result<Tensor> {
    let width: usize = t.dims()[1..].iter().product();
    let flat: Vec<f32> = t.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let mut out = vec![0f32; rows.n() * n * width];
    for i in 0..rows.n() {
        for r in rows.range(i) {
            let to = (i * n + columns[r] as usize) * width;
            out[to..to + width].copy_from_slice(&flat[r * width..(r + 1) * width]);
        }
    }
    let mut dims = vec![rows.n(), n];
    dims.extend_from_slice(&t.dims()[1..]);
    Ok(Tensor::from_vec(out, dims, &Device::Cpu)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_member_without_an_answer_gets_nobody_elses() {
        let answer = |v: f32| Output::new().member("logits", Tensor::from_vec(vec![v], (1, 1), &Device::Cpu).unwrap());
        let whole = Output::merge(vec![(vec![1], answer(1.0)), (vec![0], answer(0.0))], 2).unwrap();
        assert_eq!(whole.get("logits").unwrap().to_vec2::<f32>().unwrap(), [[0.0], [1.0]]);
        let error = Output::merge(vec![(vec![0], answer(0.0)), (vec![2], answer(2.0))], 3).unwrap_err();
        assert!(error.to_string().contains("member 1 has no `logits`"), "{error}");
    }
}
