//! Reverse-mode differentiation of our own operations.
//!
//! A graph of `tensor` keeps every result of a pass until the last gradient is there, and adds gradients by plain
//! operations on one thread. Inside [`record`] the operations of [`crate::ops`] are written down here instead: a result
//! is let go once its gradient was passed on, and kernels add. Results of recorded operations are leaves to `tensor`, so
//! plain operations may stand between ours: their graph is differentiated by `tensor`, once its gradient is complete.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use switchformer_tensor::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Shape, Tensor, TensorId, Var};

use crate::error::Result;
use crate::ops;

/// A recorded operation: what it read, and how gradients flow back.
enum Node {
    One(Tensor, Arc<dyn CustomOp1 + Send + Sync>),
    Two([Tensor; 2], Arc<dyn CustomOp2 + Send + Sync>),
    Three([Tensor; 3], Arc<dyn CustomOp3 + Send + Sync>),
    /// An operation that needs no value of its forward pass: what it read, and its results, the recorded one first.
    Any(Vec<Tensor>, Vec<Tensor>, Backward),
    /// A tensor that plain operations made of leaves.
    Foreign,
}

/// From the gradients at the results, where they have one, to those at the tensors that were read, `None` where nobody asks.
type Backward = Box<dyn Fn(&[Option<Tensor>]) -> Result<Vec<Option<Tensor>>>>;

/// The operations of one forward pass, in order, each with its result.
#[derive(Default)]
pub struct Tape {
    nodes: Vec<(Tensor, Node)>,
    foreign: HashSet<TensorId>,
}

thread_local! {
    static TAPE: RefCell<Option<Tape>> = const { RefCell::new(None) };
}

/// Runs a forward pass on this thread with its operations written down. Tapes do not nest.
pub fn record<T, E>(forward: impl FnOnce() -> std::result::Result<T, E>) -> std::result::Result<(T, Tape), E> {
    /// Takes the tape off, also when the pass fails.
    struct Off;
    impl Drop for Off {
        fn drop(&mut self) {
            TAPE.take();
        }
    }
    TAPE.set(Some(Tape::default()));
    let off = Off;
    let value = forward()?;
    let tape = TAPE.take().unwrap_or_default();
    drop(off);
    Ok((value, tape))
}

/// Gradients by tensor.
#[derive(Default)]
pub struct Grads(HashMap<TensorId, Tensor>);

impl Grads {
    /// Differentiates `loss` `[]` (or the sum of any other shape) without a tape.
    pub fn of(loss: &Tensor) -> Result<Grads> {
        Ok(Grads(loss.backward()?.into_map()))
    }

    /// The gradient of a leaf, of its shape; `None` where the loss does not depend on it.
    pub fn get(&self, t: &Tensor) -> Option<&Tensor> {
        self.0.get(&t.id())
    }

    /// Takes out the gradient of a result. One that plain operations made of tracked tensors remembers them; here it is a
    /// number.
    fn take(&mut self, t: &Tensor) -> Result<Option<Tensor>> {
        self.0.remove(&t.id()).map(|g| Ok(g.contiguous()?.detach())).transpose()
    }

    fn add(&mut self, t: &Tensor, g: Option<Tensor>) -> Result<()> {
        let Some(g) = g else { return Ok(()) };
        let sum = match self.0.remove(&t.id()) {
            Some(before) => ops::sum_into(before, &g)?,
            None => g,
        };
        self.0.insert(t.id(), sum);
        Ok(())
    }
}

impl Tape {
    /// Gradients of `loss` `[]` at every leaf that was read. Memory of the pass is freed as it goes.
    pub fn backward(mut self, loss: &Tensor) -> Result<Grads> {
        let mut grads = Grads::of(loss)?;
        while let Some((result, node)) = self.nodes.pop() {
            match node {
                Node::One(x, op) => {
                    let Some(g) = grads.take(&result)? else { continue };
                    grads.add(&x, op.bwd(&x, &result, &g)?)?;
                }
                Node::Two([x, y], op) => {
                    let Some(g) = grads.take(&result)? else { continue };
                    let (dx, dy) = op.bwd(&x, &y, &result, &g)?;
                    drop(g);
                    grads.add(&x, dx)?;
                    grads.add(&y, dy)?;
                }
                Node::Three([x, y, z], op) => {
                    let Some(g) = grads.take(&result)? else { continue };
                    let (dx, dy, dz) = op.bwd(&x, &y, &z, &result, &g)?;
                    drop(g);
                    grads.add(&x, dx)?;
                    grads.add(&y, dy)?;
                    grads.add(&z, dz)?;
                }
                Node::Any(read, results, backward) => {
                    let all = results.iter().map(|t| grads.take(t)).collect::<Result<Vec<_>>>()?;
                    if all.iter().all(Option::is_none) {
                        continue;
                    }
                    let slopes = backward(&all)?;
                    drop(all);
                    for (t, g) in read.iter().zip(slopes) {
                        grads.add(t, g)?;
                    }
                }
                Node::Foreign => {
                    let Some(g) = grads.take(&result)? else { continue };
                    let inner = Grads(result.backward_from(g)?.into_map());
                    for (id, g) in inner.0 {
                        if id != result.id() {
                            match grads.0.remove(&id) {
                                Some(before) => grads.0.insert(id, ops::sum_into(before, &g)?),
                                None => grads.0.insert(id, g),
                            };
                        }
                    }
                }
            }
        }
        Ok(grads)
    }

    /// Writes down that plain operations made `t`, the first time one of ours reads it.
    fn meet(&mut self, t: &Tensor) {
        if t.track_op() && !t.is_variable() && self.foreign.insert(t.id()) {
            self.nodes.push((t.clone(), Node::Foreign));
        }
    }

    fn add(&mut self, result: &Tensor, node: Node) {
        self.nodes.push((result.clone(), node));
    }
}

/// Whether an operation on these tensors is to be written down.
pub(crate) fn recording(read: &[&Tensor]) -> bool {
    TAPE.with_borrow(Option::is_some) && read.iter().any(|t| t.track_op())
}

/// A leaf with an operation's result, written down.
fn leaf(read: &[&Tensor], (storage, shape): (CpuStorage, Shape), node: Node) -> Result<Tensor> {
    let CpuStorage::F32(data) = storage else {
        return Err(switchformer_tensor::Error::tensor("a recorded operation gives f32"));
    };
    let result = Var::from_vec(data, shape)?.into_inner();
    write_down(read, &result, node);
    Ok(result)
}

fn write_down(read: &[&Tensor], result: &Tensor, node: Node) {
    TAPE.with_borrow_mut(|tape| {
        if let Some(tape) = tape {
            read.iter().for_each(|t| tape.meet(t));
            tape.add(result, node);
        }
    });
}

/// Calls `f` with the values of tensors.
fn with<const N: usize, T>(
    read: [&Tensor; N],
    f: impl FnOnce([(&CpuStorage, &Layout); N]) -> switchformer_tensor::Result<T>,
) -> Result<T> {
    let guards = read.map(Tensor::storage_and_layout);
    f(std::array::from_fn(|i| (&*guards[i].0, guards[i].1)))
}

/// Applies an operation, on the tape inside [`record`].
pub(crate) fn apply1(x: &Tensor, op: impl CustomOp1 + Send + Sync + 'static) -> Result<Tensor> {
    if !recording(&[x]) {
        return x.apply_op1(op);
    }
    let made = with([x], |[(s, l)]| op.cpu_fwd(s, l))?;
    leaf(&[x], made, Node::One(x.clone(), Arc::new(op)))
}

/// See [`apply1`].
pub(crate) fn apply2(x: &Tensor, y: &Tensor, op: impl CustomOp2 + Send + Sync + 'static) -> Result<Tensor> {
    if !recording(&[x, y]) {
        return x.apply_op2(y, op);
    }
    let made = with([x, y], |[(s, l), (t, m)]| op.cpu_fwd(s, l, t, m))?;
    leaf(&[x, y], made, Node::Two([x.clone(), y.clone()], Arc::new(op)))
}

/// See [`apply1`].
pub(crate) fn apply3(x: &Tensor, y: &Tensor, z: &Tensor, op: impl CustomOp3 + Send + Sync + 'static) -> Result<Tensor> {
    if !recording(&[x, y, z]) {
        return x.apply_op3(y, z, op);
    }
    let made = with([x, y, z], |[(s, l), (t, m), (u, n)]| op.cpu_fwd(s, l, t, m, u, n))?;
    leaf(&[x, y, z], made, Node::Three([x.clone(), y.clone(), z.clone()], Arc::new(op)))
}

/// Values and their shape.
pub(crate) type Made = (Vec<f32>, Vec<usize>);

/// Applies an operation over any number of tensors that needs no value of its forward pass: `kernel` makes its results and
/// `backward` turns the gradients at them into those at `read`, one each. Where gradients are tracked and no
/// tape runs, or the kernels cannot take the tensors, `plain` does the same by plain operations.
pub(crate) fn apply_parts(
    read: &[&Tensor],
    plain: impl FnOnce() -> Result<Vec<Tensor>>,
    kernel: impl FnOnce() -> switchformer_tensor::Result<Vec<Made>>,
    backward: impl Fn(&[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> + 'static,
) -> Result<Vec<Tensor>> {
    let recording = recording(read);
    if !ops::on_kernels(read) || (!recording && read.iter().any(|t| t.track_op())) {
        return plain();
    }
    let made = kernel()?.into_iter().map(|(data, shape)| {
        Ok(match recording {
            true => Var::from_vec(data, shape)?.into_inner(),
            false => Tensor::from_vec(data, shape)?,
        })
    });
    let results = made.collect::<Result<Vec<Tensor>>>()?;
    if let Some(first) = results.first().filter(|_| recording) {
        let own = read.iter().map(|t| (*t).clone()).collect();
        write_down(read, first, Node::Any(own, results.clone(), Box::new(backward)));
    }
    Ok(results)
}

/// [`apply_parts`] with one result.
pub(crate) fn apply(
    read: &[&Tensor],
    plain: impl FnOnce() -> Result<Tensor>,
    kernel: impl FnOnce() -> switchformer_tensor::Result<Made>,
    backward: impl Fn(&Tensor) -> Result<Vec<Option<Tensor>>> + 'static,
) -> Result<Tensor> {
    let back = move |all: &[Option<Tensor>]| match all {
        [Some(g)] => backward(g),
        _ => Ok(Vec::new()),
    };
    let mut made = apply_parts(read, || Ok(vec![plain()?]), || Ok(vec![kernel()?]), back)?;
    made.pop().ok_or_else(|| switchformer_tensor::Error::tensor("an operation made nothing"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The gradient of the outer product is computed from `w`, a variable; the sum within hands it on as it is.
    #[test]
    fn a_gradient_is_not_differentiated_again() {
        let var = |v: [f32; 2]| Var::from_vec(v.to_vec(), (1, 2)).unwrap();
        let (a, w) = (var([2.0, -1.0]), var([3.0, 0.5]));
        let (a, w) = (a.as_tensor(), w.as_tensor());
        // (a + a w) w, whose slope by w is a + 2 a w.
        let loss = || -> Result<Tensor> { (ops::add(a, &(a * w)?)? * w)?.sum_all() };
        let (total, tape) = record(loss).unwrap();
        let grads = tape.backward(&total).unwrap();
        let slope = |g: &Grads| g.get(w).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(slope(&grads), [14.0, -2.0]);
        assert_eq!(slope(&Grads::of(&loss().unwrap()).unwrap()), [14.0, -2.0]);
    }
}
