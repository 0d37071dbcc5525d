//! Raw tensors in and out, under Hugging Face's names.

use std::collections::BTreeMap;

use switchformer_nn::{Input, Output, Rows, Value};
use switchformer_tensor::Tensor;
use switchformer_zoo::entry::Trait;

use super::Given;
use super::embed::Embedded;
use crate::error::{Misfit, Result};
use crate::named::NamedTensors;
use crate::sentence::TokenVectors;
use crate::session::Session;

/// A model's input from tensors under the names of its slots.
pub(crate) fn given(session: &Session, tensors: &NamedTensors) -> Result<Given> {
    let spec = session.opened.model.spec();
    let known = spec.to_string();
    // A name that the model does not take is a slip of the caller; what is wrong with a part is bad input.
    let slip = tensors.map.keys().any(|name| known.split(", ").all(|k| k != name));
    let input = match Input::from_tensors(&tensors.map, &spec) {
        Err(e) if slip => {
            return Err(Misfit::UnknownTensor { origin: tensors.source.clone(), what: e.to_string() }.into());
        }
        input => input?,
    };
    let names = vec![String::new(); input.n()];
    Ok(Given::new(input, names))
}

/// Outputs under their published names, spread over the padded places; other places are zero. What differs in shape from
/// sample to sample, or is not there for some, has a tensor for each sample: `logits.0`.
pub(crate) fn padded(session: &Session, out: &Output, given: &Given, embedded: &Embedded) -> Result<NamedTensors> {
    let mut map = BTreeMap::new();
    for (name, value) in out.values() {
        match value {
            Value::PerRow(t, rows) if session.opened.entry.is(Trait::MapOutput) => {
                let all = maps(t, rows)?;
                match all.windows(2).all(|pair| pair[0].dims() == pair[1].dims()) {
                    true => drop(map.insert(name.clone(), Tensor::stack(&all, 0)?)),
                    false => each(&mut map, name, &all.into_iter().map(Some).collect::<Vec<_>>()),
                }
            }
            Value::PerMember(t) => drop(map.insert(name.clone(), t.clone())),
            Value::PerRow(t, rows) => drop(map.insert(name.clone(), given.input.unpack(name, t, rows)?)),
            Value::Each(all) => each(&mut map, name, all),
        }
    }
    let name = "sentence_embedding";
    let embeddings: Vec<Option<Tensor>> = embedded
        .vectors
        .iter()
        .map(|v| v.as_ref().map(|v| Tensor::from_vec(v.clone(), v.len())).transpose())
        .collect::<switchformer_nn::Result<_>>()?;
    match embeddings.iter().cloned().collect::<Option<Vec<_>>>() {
        Some(all) if all.is_empty() => {}
        Some(all) => drop(map.insert(name.into(), Tensor::stack(&all, 0)?)),
        None => each(&mut map, name, &embeddings),
    }
    let of_tokens = |all: &TokenVectors| {
        let (n, width) = (all.len(), all.first().map_or(0, |(_, v)| v.len()));
        Tensor::from_vec(all.iter().flat_map(|(_, v)| v.iter().copied()).collect::<Vec<f32>>(), (n, width))
    };
    let tokens = embedded.tokens.iter().map(|one| one.as_ref().map(of_tokens).transpose());
    each(&mut map, "token_embeddings", &tokens.collect::<switchformer_nn::Result<Vec<_>>>()?);
    Ok(NamedTensors::new(map))
}

/// Rows of each sample as a map. Shapes: t `[total, c]` -> `[c, h, w]` each.
fn maps(t: &Tensor, rows: &Rows) -> switchformer_nn::Result<Vec<Tensor>> {
    let sizes = rows.sizes()?.iter().enumerate();
    let one = |(i, (h, w)): (usize, &(usize, usize))| {
        let own = t.narrow(0, rows.range(i).start, rows.len(i))?;
        own.t()?.contiguous()?.reshape((t.dims2()?.1, *h, *w))
    };
    sizes.map(one).collect()
}

fn each(map: &mut BTreeMap<String, Tensor>, name: &str, all: &[Option<Tensor>]) {
    map.extend(all.iter().enumerate().filter_map(|(i, t)| Some((format!("{name}.{i}"), t.clone()?))));
}
