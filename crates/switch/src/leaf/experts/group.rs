//! The one executor of every bank: rows grouped by expert, one product per active expert, weighted rows put back.

use switchformer_nn::leaf::PlainMlp;
use switchformer_nn::{Ctx, Ffn, Result, Rows, ops};
use switchformer_tensor::Tensor;

/// Which experts compute which rows.
pub(super) struct Assignment {
    /// Expert of each row and slot, row by row; `None` where the row was dropped.
    pub(super) experts: Vec<Option<u32>>,
    /// Experts per row.
    pub(super) slots: usize,
    /// Factor of each row and slot `[rows, slots]`; all one where absent.
    pub(super) weights: Option<Tensor>,
}

/// Rows sorted by expert.
struct Groups {
    /// For each active expert its number and how many rows it takes.
    active: Vec<(usize, usize)>,
    /// Places `row * slots + slot` in the order of experts, rows of one expert in their own order.
    order: Vec<u32>,
}

impl Groups {
    /// A counting sort: time grows with rows and experts, not with their product.
    fn new(experts: &[Option<u32>], n: usize) -> Groups {
        let mut counts = vec![0usize; n];
        experts.iter().flatten().for_each(|e| counts[*e as usize] += 1);
        let mut next: Vec<usize> = counts
            .iter()
            .scan(0, |from, c| {
                *from += c;
                Some(*from - c)
            })
            .collect();
        let mut order = vec![0u32; counts.iter().sum()];
        for (place, expert) in experts.iter().enumerate() {
            if let Some(e) = expert {
                order[next[*e as usize]] = place as u32;
                next[*e as usize] += 1;
            }
        }
        let active = counts.into_iter().enumerate().filter(|(_, c)| *c > 0).collect();
        Groups { active, order }
    }
}

fn index(places: Vec<u32>) -> Result<Tensor> {
    let n = places.len();
    Tensor::from_vec(places, n)
}

/// All active experts as one product per projection, where they are plain networks.
fn at_once(cx: &mut Ctx, experts: &[Box<dyn Ffn>], x: &Tensor, active: &[(usize, usize)]) -> Result<Option<Tensor>> {
    let Some(parts) = active.iter().map(|(e, _)| experts[*e].plain()).collect::<Option<Vec<PlainMlp>>>() else {
        return Ok(None);
    };
    let counts: Vec<usize> = active.iter().map(|(_, count)| *count).collect();
    let inner: Vec<_> = parts.iter().map(|p| p.inner).collect();
    let outer: Vec<_> = parts.iter().map(|p| p.outer).collect();
    let alike = |first: &&PlainMlp| parts.iter().all(|p| (p.act, p.gate) == (first.act, first.gate));
    let Some(first) = parts.first().filter(alike) else { return Ok(None) };
    let act = first.gate.is_none().then_some(first.act);
    let Some(mut hidden) = ops::linear_grouped(x, &counts, &inner, act)? else { return Ok(None) };
    if let Some(gate) = first.gate {
        hidden = first.act.gate(&hidden, gate)?;
    }
    let Some(y) = ops::linear_grouped(&hidden, &counts, &outer, None)? else { return Ok(None) };
    let work = |(w, _): &switchformer_nn::leaf::Plain| w.dims().0 * w.dims().1;
    cx.count(counts.iter().sum::<usize>() * (work(&first.inner) + work(&first.outer)));
    Ok(Some(y))
}

/// One product per active expert over its own rows. Shapes: x `[sum of counts, dim]`, sorted -> the same.
fn grouped(cx: &mut Ctx, experts: &[Box<dyn Ffn>], x: &Tensor, active: &[(usize, usize)]) -> Result<Tensor> {
    if active.len() > 1
        && let Some(y) = at_once(cx, experts, x, active)?
    {
        return Ok(y);
    }
    let mut from = 0;
    let mut parts = Vec::with_capacity(active.len());
    for (e, count) in active {
        parts.push(experts[*e].forward(cx, &x.narrow(0, from, *count)?, &Rows::equal(1, *count)?)?);
        from += count;
    }
    Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Tensor::cat(&parts, 0)? })
}

/// Sum over the slots of each row of factor times expert; zero for a row that all slots dropped. Shapes: x
/// `[rows, dim]` -> `[rows, dim]`.
pub(super) fn run(cx: &mut Ctx, experts: &[Box<dyn Ffn>], x: &Tensor, a: &Assignment) -> Result<Tensor> {
    let rows = x.dims2()?.0;
    let groups = Groups::new(&a.experts, experts.len());
    // Nothing to sort where one expert takes every row once.
    let whole = a.slots == 1 && matches!(groups.active.as_slice(), [(_, count)] if *count == rows);
    if rows == 0 || groups.active.is_empty() {
        return x.zeros_like();
    }
    let sorted = if whole {
        x.clone()
    } else {
        ops::gather(x, &index(groups.order.iter().map(|p| p / a.slots as u32).collect())?)?
    };
    let mut y = grouped(cx, experts, &sorted, &groups.active)?;
    if let Some(w) = &a.weights {
        let w = w.flatten_all()?;
        let w = if whole { w } else { ops::gather(&w, &index(groups.order.clone())?)? };
        y = ops::scale_rows(&y, &w)?;
    }
    if whole {
        return Ok(y);
    }
    // Where each place went; dropped ones read zeros.
    let mut back = vec![ops::NO_ROW; rows * a.slots];
    groups.order.iter().enumerate().for_each(|(at, place)| back[*place as usize] = at as u32);
    let slot = |s: usize| ops::gather(&y, &index(back.iter().skip(s).step_by(a.slots).copied().collect())?);
    let mut out = slot(0)?;
    for s in 1..a.slots {
        out = ops::add(&out, &slot(s)?)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_the_order_of_rows_and_skip_the_idle() {
        let g = Groups::new(&[Some(2), Some(0), None, Some(2), Some(0)], 4);
        assert_eq!(g.active, [(0, 2), (2, 2)]);
        assert_eq!(g.order, [1, 4, 0, 3]);
    }
}
