//! What comes out of a model, with Hugging Face's names, member by member.

use std::collections::{BTreeMap, BTreeSet};

use switchformer_tensor::{DType, Tensor};

use crate::error::{Error, Result};
use crate::rows::Rows;

/// One named output.
#[derive(Clone, Debug)]
pub enum Value {
    /// One entry per member, `[b, ..]`; every member has one.
    PerMember(Tensor),
    /// One entry per packed row, `[total, ..]`, with the rows it belongs to. [`Rows::members`] says who has any.
    PerRow(Tensor, Rows),
    /// One tensor per member, each of its own shape; `None` for a member that has none.
    Each(Vec<Option<Tensor>>),
}

/// Named outputs of a model, under Hugging Face's names (`logits`, `last_hidden_state`, `pooler_output`, ...).
#[derive(Clone, Debug, Default)]
pub struct Output {
    values: BTreeMap<String, Value>,
    /// Members of the batch, once it is whole.
    n: Option<usize>,
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

    /// Adds one tensor per member; their shapes may differ. Shapes: `[..]` each -> `[b, ..]` where they are equal.
    pub fn each(mut self, name: &str, all: Vec<Tensor>) -> Result<Self> {
        let alike = all.windows(2).all(|w| w[0].dims() == w[1].dims());
        let value = match all.first() {
            Some(_) if alike => Value::PerMember(Tensor::stack(&all, 0)?),
            _ => Value::Each(all.into_iter().map(Some).collect()),
        };
        self.values.insert(name.into(), value);
        Ok(self)
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

    fn value(&self, name: &str) -> Result<&Value> {
        self.values.get(name).ok_or_else(|| {
            let names = self.values.keys().cloned().collect::<Vec<_>>().join(", ");
            Error::input(format!("this model gives no `{name}`"), format!("it gives: {names}"))
        })
    }

    /// An output with one entry per member, `[b, ..]`. Errors where a member has none, or entries differ in shape.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        match self.value(name)? {
            Value::PerMember(t) => Ok(t),
            Value::PerRow(..) => Err(Error::input(format!("`{name}` has one entry per token"), "pool it first")),
            Value::Each(all) => Err(match all.iter().position(Option::is_none) {
                Some(member) => absent(name, member),
                None => Error::input(format!("`{name}` differs in size"), "ask for it member by member"),
            }),
        }
    }

    /// An output with one entry per row, of a batch of which every member has some: segment `i` is member `i`.
    pub fn get_rows(&self, name: &str) -> Option<(&Tensor, &Rows)> {
        let everyone =
            |rows: &Rows| self.n.is_none_or(|n| n == rows.n()) && rows.members().iter().copied().eq(0..rows.n() as u32);
        match self.values.get(name) {
            Some(Value::PerRow(t, rows)) if everyone(rows) => Some((t, rows)),
            _ => None,
        }
    }

    /// What one member gets: its entry `[..]`, or its rows `[len, ..]`. Errors where it has none, for it alone.
    pub fn of(&self, name: &str, member: usize) -> Result<Tensor> {
        let none = || absent(name, member);
        if self.values.is_empty() && self.n.is_some_and(|n| member < n) {
            return Err(none());
        }
        match self.value(name)? {
            Value::PerMember(t) if member < t.dims()[0] => Ok(t.get(member)?),
            Value::PerMember(_) => Err(none()),
            Value::PerRow(t, rows) => {
                let segment = rows.members().iter().position(|m| *m as usize == member).ok_or_else(none)?;
                let range = rows.range(segment);
                Ok(t.narrow(0, range.start, range.len())?)
            }
            Value::Each(all) => all.get(member).cloned().flatten().ok_or_else(none),
        }
    }

    /// The outputs of `members`, numbered as the segments that they are in a pass with memory, where a member may go on
    /// in several ways. Errors where rows are not those of `members`, in their order.
    pub(crate) fn of_segments(mut self, members: &[u32], segments: &[u32]) -> Result<Output> {
        for (name, value) in &mut self.values {
            if let Value::PerRow(_, rows) = value {
                if rows.members() != members {
                    return Err(Error::shape(name.as_str(), format!("rows of {} members", members.len()), &[rows.n()]));
                }
                *rows = rows.clone().of_members(segments)?;
            }
        }
        Ok(self)
    }

    /// Joins outputs of parts of a batch of `n` members back into its order. A part lists its members in the order of
    /// its entries. A member that no part gave an output has none: [`Output::of`] is an error for it alone.
    pub fn merge(mut parts: Vec<(Vec<u32>, Output)>, n: usize) -> Result<Output> {
        let mut seen = vec![false; n];
        for member in parts.iter().flat_map(|(members, _)| members) {
            match seen.get_mut(*member as usize) {
                Some(seen) if !*seen => *seen = true,
                _ => return Err(Error::shape("output", format!("each of {n} members once"), &[*member as usize])),
            }
        }
        for (members, out) in &parts {
            out.values.iter().try_for_each(|(name, value)| value.check(name, members))?;
        }
        let in_order = |m: &[u32]| m.len() == n && m.iter().enumerate().all(|(i, v)| i as u32 == *v);
        if parts.len() == 1 && in_order(&parts[0].0) {
            return Ok(Output { n: Some(n), ..parts.remove(0).1 });
        }
        let names: BTreeSet<&String> = parts.iter().flat_map(|(_, out)| out.values.keys()).collect();
        let mut values = BTreeMap::new();
        for name in names {
            let of = |(members, out): &'_ (Vec<u32>, Output)| Some((members.clone(), out.values.get(name)?.clone()));
            values.insert(name.clone(), merged(name, parts.iter().filter_map(of).collect(), n)?);
        }
        Ok(Output { values, n: Some(n) })
    }
}

fn absent(name: &str, member: usize) -> Error {
    Error::input(
        format!("member {member} has no `{name}`"),
        "it left the batch before it had any, as a cancelled member does",
    )
}

impl Value {
    /// Errors unless the entries are those of `members`.
    fn check(&self, name: &str, members: &[u32]) -> Result<()> {
        let fits = match self {
            Value::PerMember(t) => t.dims().first() == Some(&members.len()),
            Value::PerRow(t, rows) => {
                t.dims().first() == Some(&rows.total())
                    && (rows.members() == members || rows.members().iter().all(|m| members.contains(m)))
            }
            Value::Each(all) => all.len() == members.len(),
        };
        let got = match self {
            Value::PerMember(t) | Value::PerRow(t, _) => t.dims(),
            Value::Each(all) => &[all.len()],
        };
        if fits { Ok(()) } else { Err(Error::shape(name, format!("entries of {} members", members.len()), got)) }
    }
}

/// One output of several parts of a batch.
fn merged(name: &str, parts: Vec<(Vec<u32>, Value)>, n: usize) -> Result<Value> {
    let per_row: Vec<(&Tensor, &Rows)> = parts
        .iter()
        .filter_map(|(_, value)| match value {
            Value::PerRow(t, rows) => Some((t, rows)),
            _ => None,
        })
        .collect();
    if per_row.len() == parts.len() {
        let (gather, rows) = Rows::join(&per_row.iter().map(|(_, rows)| *rows).collect::<Vec<_>>())?;
        let all = Tensor::cat(&per_row.iter().map(|(t, _)| *t).collect::<Vec<_>>(), 0)?;
        return Ok(Value::PerRow(gathered(&all, gather)?, rows));
    }
    if !per_row.is_empty() {
        return Err(Error::shape(name, "rows of every member or of none", &[per_row.len(), parts.len()]));
    }
    if let Some(whole) = stacked(&parts, n)? {
        return Ok(Value::PerMember(whole));
    }
    let mut each = vec![None; n];
    for (members, value) in parts {
        for (i, member) in members.into_iter().enumerate() {
            each[member as usize] = match &value {
                Value::PerMember(t) => Some(t.get(i)?),
                Value::Each(all) => all[i].clone(),
                Value::PerRow(..) => None,
            };
        }
    }
    Ok(Value::Each(each))
}

/// Entries of one shape of all `n` members, in order. Shapes: -> `[n, ..]`.
fn stacked(parts: &[(Vec<u32>, Value)], n: usize) -> Result<Option<Tensor>> {
    let tensors: Option<Vec<&Tensor>> =
        parts.iter().map(|(_, value)| if let Value::PerMember(t) = value { Some(t) } else { None }).collect();
    let Some(tensors) = tensors else { return Ok(None) };
    let members: Vec<u32> = parts.iter().flat_map(|(members, _)| members.iter().copied()).collect();
    let alike = tensors.iter().all(|t| t.dims()[1..] == tensors[0].dims()[1..]);
    if !alike || members.len() != n {
        return Ok(None);
    }
    let mut order = vec![0u32; n];
    members.iter().enumerate().for_each(|(row, member)| order[*member as usize] = row as u32);
    Ok(Some(gathered(&Tensor::cat(&tensors, 0)?, order)?))
}

/// Shapes: `[any, ..]` -> `[index, ..]`.
fn gathered(t: &Tensor, index: Vec<u32>) -> Result<Tensor> {
    let n = index.len();
    t.index_select(&Tensor::from_vec(index, n)?, 0)
}

/// Spreads packed rows into `[members, width, ..]`, zeros where there is no row. `columns` gives each row's place.
pub fn unpack(t: &Tensor, rows: &Rows, columns: &[u32], width: usize) -> Result<Tensor> {
    let len: usize = t.dims()[1..].iter().product();
    let flat: Vec<f32> = t.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let mut out = vec![0f32; rows.n() * width * len];
    for i in 0..rows.n() {
        for r in rows.range(i) {
            let to = (i * width + columns[r] as usize) * len;
            out[to..to + len].copy_from_slice(&flat[r * len..(r + 1) * len]);
        }
    }
    let mut dims = vec![rows.n(), width];
    dims.extend_from_slice(&t.dims()[1..]);
    Tensor::from_vec(out, dims)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tensor(values: &[f32], width: usize) -> Tensor {
        Tensor::from_slice(values, (values.len() / width, width)).unwrap()
    }

    fn of(out: &Output, name: &str, member: usize) -> Vec<f32> {
        out.of(name, member).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_member_without_output_never_gets_that_of_another() {
        let part = Output::new().member("logits", tensor(&[0.0, 2.0], 1));
        let out = Output::merge(vec![(vec![0, 2], part)], 3).unwrap();
        assert_eq!((of(&out, "logits", 0), of(&out, "logits", 2)), (vec![0.0], vec![2.0]));
        let error = out.of("logits", 1).unwrap_err().to_string();
        assert!(error.contains("member 1 has no `logits`"), "{error}");
        assert!(out.get("logits").unwrap_err().to_string().contains("member 1"));
        assert!(out.of("logits", 3).is_err());
    }

    #[test]
    fn members_of_several_parts_come_back_in_order() {
        let part = |values: &[f32]| Output::new().member("logits", tensor(values, 1));
        let parts = vec![(vec![2], part(&[2.0])), (vec![3, 0], part(&[3.0, 0.0])), (vec![1], part(&[1.0]))];
        let out = Output::merge(parts, 4).unwrap();
        assert_eq!(out.get("logits").unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(), [0.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn what_one_part_lacks_the_others_keep() {
        let gone = Output::new().member("logits", tensor(&[1.0], 1));
        let rest = Output::new().member("logits", tensor(&[0.0], 1)).member("pooled", tensor(&[5.0, 6.0], 2));
        let out = Output::merge(vec![(vec![1], gone), (vec![0], rest)], 2).unwrap();
        assert!(out.get("logits").is_ok());
        assert_eq!(of(&out, "pooled", 0), [5.0, 6.0]);
        assert!(out.of("pooled", 1).is_err() && out.get("pooled").is_err());
    }

    #[test]
    fn rows_are_merged_by_their_members() {
        let whole = Rows::new(&[2, 1, 3]).unwrap();
        let part = |segments: &[usize], values: &[f32]| {
            Output::new().rows("hidden", tensor(values, 1), &whole.select(segments).1)
        };
        let of_two = |a, b| Output::merge(vec![(vec![1], part(&[1], &[20.0])), (a, b)], 3).unwrap();
        let out = of_two(vec![0, 2], part(&[0, 2], &[10.0, 11.0, 30.0, 31.0, 32.0]));
        let (t, rows) = out.get_rows("hidden").unwrap();
        assert_eq!(t.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [10.0, 11.0, 20.0, 30.0, 31.0, 32.0]);
        assert_eq!(rows, &whole);
        // A member that left: nobody can take segment 1 for member 1.
        let out = of_two(vec![2], part(&[2], &[30.0, 31.0, 32.0]));
        assert!(out.get_rows("hidden").is_none() && out.of("hidden", 0).is_err());
        assert_eq!((of(&out, "hidden", 1), of(&out, "hidden", 2)), (vec![20.0], vec![30.0, 31.0, 32.0]));
    }

    #[test]
    fn maps_may_differ_in_size() {
        let out = Output::new().each("maps", vec![tensor(&[1.0, 2.0], 2), tensor(&[3.0], 1)]).unwrap();
        let out = Output::merge(vec![(vec![1, 0], out)], 2).unwrap();
        assert_eq!((of(&out, "maps", 0), of(&out, "maps", 1)), (vec![3.0], vec![1.0, 2.0]));
        assert!(out.get("maps").unwrap_err().to_string().contains("differs in size"));
        let alike = Output::new().each("maps", vec![tensor(&[1.0], 1), tensor(&[3.0], 1)]).unwrap();
        assert_eq!(alike.get("maps").unwrap().dims(), [2, 1, 1]);
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let out = |n: usize| Output::new().member("logits", tensor(&vec![0.0; n], 1));
        assert!(Output::merge(vec![(vec![0], out(1)), (vec![0], out(1))], 2).is_err(), "a member twice");
        assert!(Output::merge(vec![(vec![2], out(1))], 2).is_err(), "a member that is not there");
        assert!(Output::merge(vec![(vec![0, 1], out(1))], 2).is_err(), "fewer entries than members");
        let rows = Rows::new(&[1, 1]).unwrap();
        let foreign = Output::new().rows("hidden", tensor(&[0.0, 0.0], 1), &rows);
        assert!(Output::merge(vec![(vec![0], foreign)], 2).is_err(), "rows of a member of another part");
    }
}
