//! Depth-wise convolution over maps on our kernels.

use switchformer_kernels::{self as kernels, Depthwise, Epilogue};
use switchformer_tensor::{CpuStorage, CustomOp3, Layout, Shape, Tensor};

use super::fused::{answer, kernel_act, tensor, values, with};
use crate::error::{Error, Result};
use crate::layers::Activation;
use crate::rows::Rows;
use crate::tape::apply3;

/// What a depth-wise convolution does beside: `act(conv(x) + x)`, each where asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside {
    /// Adds what it reads.
    pub input: bool,
    /// Applied last.
    pub act: Option<Activation>,
}

/// Widest filter of the kernels.
pub(crate) const WIDEST: usize = 9;

struct DepthwiseOp {
    /// Neighbouring maps of one size go together.
    runs: Vec<Depthwise>,
    /// The activation is left out where gradients are tracked.
    beside: Beside,
}

impl DepthwiseOp {
    /// Each run with its part of the rows, in floats.
    fn parts(&self) -> impl Iterator<Item = (&Depthwise, std::ops::Range<usize>)> {
        self.runs.iter().scan(0, |at, run| {
            let from = *at;
            *at += run.batch * run.height * run.width * run.channels;
            Some((run, from..*at))
        })
    }
}

/// Filters `[dim, places]` as the kernels read them, `[places, dim]`. A filter with one more in its middle adds its input.
fn taps(w: &[f32], places: usize, beside: Beside) -> Vec<f32> {
    let mut taps = turned(w, places);
    let dim = taps.len() / places;
    if beside.input {
        taps[places / 2 * dim..][..dim].iter_mut().for_each(|w| *w += 1.0);
    }
    taps
}

/// `[rows, columns]` as `[columns, rows]`.
fn turned(x: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| x.iter().skip(c).step_by(columns)).copied().collect()
}

impl CustomOp3 for DepthwiseOp {
    fn name(&self) -> &'static str {
        "depthwise"
    }
    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, b) = (values(x, lx)?, values(b, lb)?);
        let taps = taps(values(w, lw)?, lw.shape().dims2()?.1, self.beside);
        let epilogue = Epilogue { bias: Some(b), act: self.beside.act.map(kernel_act), ..Epilogue::default() };
        let mut y = kernels::unfilled(x.len());
        for (run, part) in self.parts() {
            kernels::depthwise(run, &x[part.clone()], &taps, &epilogue, &mut y[part]);
        }
        answer(y, lx.dims())
    }
    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dim, places) = w.dims2()?;
        let (mut dx, mut dw, mut db) = (kernels::unfilled(x.elem_count()), vec![0f32; dim * places], vec![0f32; dim]);
        with([x, w, dy], |[x, w, dy]| {
            let taps = taps(w, places, self.beside);
            for (run, part) in self.parts() {
                let (x, dy, dx) = (&x[part.clone()], &dy[part.clone()], &mut dx[part]);
                kernels::depthwise_backward(run, x, &taps, dy, Some(dx), Some(&mut dw), Some(&mut db));
            }
        })?;
        let dw = tensor(turned(&dw, dim), &[dim, places])?;
        Ok((Some(tensor(dx, x.dims())?), Some(dw), Some(tensor(db, b.dims())?)))
    }
}

/// Every channel of a map with its own odd square filter, at most 9 wide; the map keeps its size and has zeros around
/// it; `beside` it, what is asked for. For f32 tensors. Shapes: x `[total, dim]`, w `[dim, kernel * kernel]`, b `[dim]` -> `[total, dim]`.
pub fn depthwise(x: &Tensor, w: &Tensor, b: &Tensor, rows: &Rows, kernel: usize, beside: Beside) -> Result<Tensor> {
    let dim = b.elem_count();
    if x.dims() != [rows.total(), dim] || w.dims() != [dim, kernel * kernel] || !(1..=WIDEST).contains(&kernel) {
        let want = format!("[{}, {dim}] and filters [{dim}, {kernel} * {kernel}]", rows.total());
        return Err(Error::shape("depth-wise convolution", want, x.dims()));
    }
    let run = |maps: &[crate::rows::Size]| Depthwise {
        batch: maps.len(),
        height: maps[0].0,
        width: maps[0].1,
        channels: dim,
        kernel,
        stride: 1,
        padding: kernel / 2,
    };
    let runs = rows.sizes()?.chunk_by(|a, b| a == b).filter(|maps| maps[0].0 * maps[0].1 > 0).map(run).collect();
    let learning = [x, w, b].into_iter().any(Tensor::track_op);
    let epilogue = beside.act.filter(|_| learning);
    let beside = Beside { act: beside.act.filter(|_| !learning), ..beside };
    let y = apply3(&x.contiguous()?, &w.contiguous()?, &b.contiguous()?, DepthwiseOp { runs, beside })?;
    epilogue.map_or(Ok(y.clone()), |act| super::activation(&y, act))
}
