//! Reverse-mode gradients.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::{Result, Tensor, TensorId};

type Backward = dyn Fn(&Tensor, &Tensor) -> Result<Vec<Option<Tensor>>> + Send + Sync;

/// How a tensor came about: what was read, and how a gradient flows back to it.
#[derive(Clone)]
pub(crate) struct Node(Arc<(Vec<Tensor>, Box<Backward>)>);

impl Node {
    /// The node of an operation, where one of the tensors it read tracks gradients. `back` gets the result, without history,
    /// and its gradient.
    pub(crate) fn of<const N: usize>(
        read: [&Tensor; N],
        back: impl Fn(&Tensor, &Tensor) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    ) -> Option<Node> {
        Node::of_all(&read, back)
    }

    /// [`Node::of`] for any number of tensors.
    pub(crate) fn of_all(
        read: &[&Tensor],
        back: impl Fn(&Tensor, &Tensor) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    ) -> Option<Node> {
        let tracks = read.iter().any(|t| t.track_op());
        tracks.then(|| Node(Arc::new((read.iter().map(|t| (*t).clone()).collect(), Box::new(back)))))
    }

    fn read(&self) -> &[Tensor] {
        &self.0.0
    }
}

/// Gradients by tensor.
#[derive(Default)]
pub struct GradStore(HashMap<TensorId, Tensor>);

impl GradStore {
    /// The gradient of a variable; `None` where the result does not depend on it.
    pub fn get(&self, t: &Tensor) -> Option<&Tensor> {
        self.0.get(&t.id())
    }

    /// All gradients.
    pub fn into_map(self) -> HashMap<TensorId, Tensor> {
        self.0
    }

    fn add(&mut self, t: &Tensor, g: Tensor) -> Result<()> {
        let sum = match self.0.remove(&t.id()) {
            Some(before) => (before + g)?,
            None => g,
        };
        self.0.insert(t.id(), sum);
        Ok(())
    }
}

impl Tensor {
    /// Gradients of the sum of this tensor's elements at every variable it depends on.
    pub fn backward(&self) -> Result<GradStore> {
        self.backward_from(self.ones_like()?)
    }

    /// Gradients at every variable, from the gradient at this tensor.
    pub fn backward_from(&self, gradient: Tensor) -> Result<GradStore> {
        let mut grads = GradStore::default();
        grads.add(self, gradient.detach())?;
        for t in self.sorted() {
            let Some(node) = t.node() else { continue };
            let Some(g) = grads.0.remove(&t.id()) else { continue };
            let back = (node.0.1)(&t.detach(), &g)?;
            drop(g);
            for (read, g) in node.read().iter().zip(back) {
                if let Some(g) = g.filter(|_| read.track_op()) {
                    grads.add(read, g.detach())?;
                }
            }
        }
        Ok(grads)
    }

    /// What this tensor depends on, each before what it read.
    fn sorted(&self) -> Vec<Tensor> {
        let (mut order, mut seen) = (Vec::new(), HashSet::new());
        // A tensor is put down once all that it read are: no recursion, as graphs are deep.
        let mut stack = vec![(self.clone(), false)];
        while let Some((t, done)) = stack.pop() {
            if done {
                order.push(t);
                continue;
            }
            if !seen.insert(t.id()) {
                continue;
            }
            let read: Vec<Tensor> = t.node().map_or_else(Vec::new, |n| n.read().to_vec());
            stack.push((t, true));
            stack.extend(read.into_iter().filter(|r| r.track_op() && !seen.contains(&r.id())).map(|r| (r, false)));
        }
        order.reverse();
        order
    }
}
