//! The leaf seam: one projection, one feed-forward, one attention. Which form stands behind a trait object is the
//! loader's decision, so a model file writes one line per projection.

use std::ops::Range;

use switchformer_tensor::Tensor;

use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::layers::{Activation, GateSide};
use crate::ops::{self, DenseWeight, Epilogue};
use crate::point::Point;
use crate::rows::Rows;
use crate::side::Stream;

/// The weights `[out, in]` and bias `[out]` of a dense projection.
pub type Plain<'a> = (&'a DenseWeight, Option<&'a Tensor>);

/// A feed-forward network of dense projections and nothing more: `outer(act(inner(x)))`, or gated.
#[derive(Clone, Copy, Debug)]
pub struct PlainMlp<'a> {
    /// Applied first.
    pub inner: Plain<'a>,
    /// Between the two.
    pub act: Activation,
    /// Where the inner projection gives a gate and a value side by side, `outer(act(gate) * value)`: which is the gate.
    pub gate: Option<GateSide>,
    /// Applied last.
    pub outer: Plain<'a>,
}

/// A projection of rows: `[rows, in] -> [rows, out]`.
pub trait Linear: Send + Sync {
    /// Applies the projection. Shapes: x `[rows, in]` -> `[rows, out]`.
    fn forward(&self, cx: &mut Ctx, x: &Tensor) -> Result<Tensor>;
    /// Applies the projection and what follows it. Shapes: x `[rows, in]` -> `[rows, out]`.
    fn forward_with(&self, cx: &mut Ctx, x: &Tensor, epilogue: &Epilogue) -> Result<Tensor> {
        epilogue.apply(self.forward(cx, x)?)
    }
    /// Weights and bias of a projection that is dense f32 and nothing more; other forms have none to show.
    fn plain(&self) -> Option<Plain<'_>> {
        None
    }
    /// Parts of the projection in runs of `unit` inputs or a multiple of it; `None` where the form has none.
    fn parts(&self, unit: usize) -> Option<&dyn Parts> {
        let _ = unit;
        None
    }
    /// `(in, out)`.
    fn dims(&self) -> (usize, usize);
    /// The matrix `[out, in]` that a point computes with: oracle and export path at once.
    fn dense(&self, point: &Point) -> Result<Tensor>;
}

/// A projection of which some inputs and outputs make a projection.
pub trait Parts {
    /// The projection of the inputs `ins` to the outputs `outs`, both in order; biases stay with their outputs.
    fn part(&self, outs: &[Range<usize>], ins: &[Range<usize>]) -> Result<Box<dyn Linear>>;
}

/// The parts of a projection in runs of `unit` inputs. Errors name the attention `at` whose projection has none.
pub(crate) fn narrowed<'a>(linear: &'a dyn Linear, unit: usize, at: &str) -> Result<&'a dyn Parts> {
    linear
        .parts(unit)
        .ok_or_else(|| Error::unsupported(at, "some of the heads", "a form of projections that has parts"))
}

/// A feed-forward network over packed rows. A dense one treats each row alone; a bank of experts may ask whose row it is.
pub trait Ffn: Send + Sync {
    /// Shapes: x `[total, dim]` with `rows.total() == total` -> `[total, dim]`.
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor>;
    /// Adds the result to a residual; in training, places of it drop out. Shapes: x and residual `[rows, dim]` ->
    /// `[rows, dim]`.
    fn forward_onto(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows, residual: &Tensor) -> Result<Tensor> {
        let y = self.forward(cx, x, rows)?;
        cx.onto(residual, y, "ffn")
    }
    /// Its parts where it is two dense projections, so that a bank may run several networks as one product.
    fn plain(&self) -> Option<PlainMlp<'_>> {
        None
    }
}

/// Something that mixes the rows of each segment of a packed batch: an attention, a convolution, a whole block of both.
pub trait Mixer: Send + Sync {
    /// Shapes: x `[total, dim]` with `rows.total() == total` -> `[total, dim]`.
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor>;
    /// Adds the result to a residual; in training, places of it drop out. Shapes: x and residual `[total, dim]` ->
    /// `[total, dim]`.
    fn forward_onto(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows, residual: &Tensor) -> Result<Tensor> {
        let y = self.forward(cx, x, rows)?;
        cx.onto(residual, y, "mixer")
    }
}

/// Keys and values that queries may look at.
#[derive(Clone, Debug)]
pub struct KeyValues {
    /// Keys, `[total, kv_heads * head_dim]`.
    pub k: Tensor,
    /// Values, `[total, kv_heads * value_dim]`.
    pub v: Tensor,
    /// Which rows belong to which member.
    pub rows: Rows,
}

/// Attention within each segment, or of the rows of one stream to those of another: segment `i` sees segment `i`. In a pass
/// with a memory ([`Ctx::memory`]) causal attention remembers its rows, and sees what was remembered of their members.
pub trait Attention: Mixer {
    /// Keys and values of a source, once for any number of [`Attention::attend`]. Shapes: source `[total, source dim]`.
    /// Errors where this form reads its own rows only.
    fn key_values(&self, cx: &mut Ctx, source: &Tensor, rows: &Rows) -> Result<KeyValues> {
        let _ = (cx, source, rows);
        Err(own_rows_only())
    }
    /// Rows attend to keys and values that are known; the result is added to a residual where one is given. Shapes: x
    /// `[total, dim]`, residual `[total, dim]` -> `[total, dim]`. Errors where this form reads its own rows only.
    fn attend(
        &self,
        cx: &mut Ctx,
        x: &Tensor,
        rows: &Rows,
        seen: &KeyValues,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let _ = (cx, x, rows, seen, residual);
        Err(own_rows_only())
    }
    /// Rows attend to those of another stream; the result is added to a residual where one is given. In a pass with a
    /// memory what is made of the source is kept, and serves the passes that come without one. Shapes: x `[total, dim]`,
    /// source `[source total, source dim]`, residual `[total, dim]` -> `[total, dim]`. Errors where this form reads its own
    /// rows only or keeps no memory, and where there is no source and none is remembered.
    fn attend_source(
        &self,
        cx: &mut Ctx,
        x: &Tensor,
        rows: &Rows,
        source: Option<&Stream>,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        if cx.memory.is_some() {
            return Err(Error::unsupported("attention", "a memory of its source", "a form that remembers"));
        }
        attend_once(self, cx, x, rows, source, residual)
    }
}

/// [`Attention::attend_source`] without a memory.
pub(crate) fn attend_once<A: Attention + ?Sized>(
    attention: &A,
    cx: &mut Ctx,
    x: &Tensor,
    rows: &Rows,
    source: Option<&Stream>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let source = source.ok_or_else(no_source)?;
    let seen = attention.key_values(cx, &source.x, &source.rows)?;
    attention.attend(cx, x, rows, &seen, residual)
}

/// The error where rows should attend to a source and there is none.
pub(crate) fn no_source() -> Error {
    Error::input("a block that reads a source met none", "start at the stem")
}

fn own_rows_only() -> Error {
    Error::unsupported("attention", "keys and values of another stream", "a form that reads a source")
}

/// A projection with dense f32 weights.
#[derive(Debug)]
pub struct Dense {
    weight: DenseWeight,
    bias: Option<Tensor>,
    at: String,
}

impl Dense {
    /// Shapes: weight `[out, in]`, bias `[out]`.
    pub fn new(at: impl Into<String>, weight: Tensor, bias: Option<Tensor>) -> Self {
        Dense { weight: DenseWeight::new(weight), bias: bias.map(|b| b.weight()), at: at.into() }
    }
}

impl Linear for Dense {
    fn forward(&self, cx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        self.forward_with(cx, x, &Epilogue::default())
    }
    fn forward_with(&self, cx: &mut Ctx, x: &Tensor, epilogue: &Epilogue) -> Result<Tensor> {
        let (inner, out) = self.dims();
        let rows = rows_of(x, inner, &self.at)?;
        cx.count(rows * inner * out);
        self.weight.linear(x, self.bias.as_ref(), epilogue)
    }
    fn plain(&self) -> Option<Plain<'_>> {
        Some((&self.weight, self.bias.as_ref()))
    }
    fn parts(&self, _: usize) -> Option<&dyn Parts> {
        Some(self)
    }
    fn dims(&self) -> (usize, usize) {
        self.weight.dims()
    }
    fn dense(&self, _: &Point) -> Result<Tensor> {
        self.weight.rows()
    }
}

impl Parts for Dense {
    fn part(&self, outs: &[Range<usize>], ins: &[Range<usize>]) -> Result<Box<dyn Linear>> {
        let weight = ops::columns_at(&ops::rows_at(&self.weight.rows()?, outs)?, ins)?;
        let bias = self.bias.as_ref().map(|b| ops::rows_at(b, outs)).transpose()?;
        Ok(Box::new(Dense::new(self.at.clone(), weight, bias)))
    }
}

/// The product with a table that is also looked up. Whoever looks it up counts its bytes.
#[derive(Debug)]
pub struct Tied {
    table: Tensor,
    bias: Option<Tensor>,
}

impl Tied {
    /// Shapes: table `[out, in]`, bias `[out]`.
    pub fn new(table: Tensor, bias: Option<Tensor>) -> Self {
        Tied { table, bias }
    }
}

impl Linear for Tied {
    fn forward(&self, cx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        cx.count(x.dims()[0] * self.table.elem_count());
        ops::linear(x, &self.table, self.bias.as_ref())
    }
    fn dims(&self) -> (usize, usize) {
        (self.table.dims()[1], self.table.dims()[0])
    }
    fn dense(&self, _: &Point) -> Result<Tensor> {
        Ok(self.table.clone())
    }
}

/// Checks that `x` is `[rows, inner]` and returns its rows.
pub fn rows_of(x: &Tensor, inner: usize, at: &str) -> Result<usize> {
    match x.dims() {
        [rows, d] if *d == inner => Ok(*rows),
        other => Err(Error::shape(at, format!("[rows, {inner}]"), other)),
    }
}
