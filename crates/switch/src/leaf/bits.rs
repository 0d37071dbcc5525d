//! Double Rounding - one 8-bit checkpoint, seen at 8, 6, 4 or 2 bits by rounding again.
//!
//! Paper: "Nearly Lossless Adaptive Bit Switching", arXiv 2502.01199.
//! Idea: store `W_8 = clip(round(W / s))`; a narrower view is `W_l = clip((W_8 + 2^(7-l)) >> (8-l))`, used as
//! `W_l * 2^(8-l) * s`. All scales are tied by powers of two, so a switch changes no byte of the checkpoint.
//! Training: every width of a step reads the same weights through a straight-through view; the row scale learns with
//! LSQ gradients from all of them, in the log domain so that its step is relative.
//! Departs from the paper: scales are per output row, or, for a dense checkpoint rounded after its training, per 64
//! inputs of a row; activations stay f32 unless the point says
//! `activation_bits: 8`, which needs no training; the learning-rate rule for scales (ALRS)
//! and the Hessian sampler are not here; embeddings, norms and heads stay f32.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use switchformer_nn::dry;
use switchformer_nn::init::Stream;
use switchformer_nn::ops::Epilogue;
use switchformer_nn::ops::{self, NestedWeight, PackedNested};
use switchformer_nn::store::{Saved, SavedMap};
use switchformer_nn::weights::{LeafMaker, LinearSpec};
use switchformer_nn::{Ctx, Error, Linear, ParamKind, Parts, Point, Result, Tensor, Weights};

use crate::form::{Form, FormUse};
use crate::host::Host;
use crate::plan::{Plan, typed};
use crate::sites::Sites;
use crate::switch::{Loading, NamedSetting, Switch};
use crate::train::{Draws, Pull, Sampled, Table, TrainSwitch, key};

/// Width of the stored codes.
pub const STORED: u8 = 8;
/// Widths a nested checkpoint offers, widest first.
pub const VIEWS: [u8; 4] = [8, 6, 4, 2];

/// The axis `bits`: width at which nested weights are viewed.
pub struct Bits;

/// Bit-widths at which the weights can be viewed, widest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Views(pub Vec<u8>);

/// Width of a view: the setting of the axis `bits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width(pub u8);

/// Why a checkpoint has no views.
const DENSE: &str = "dense f32 weights; open with nested weights (--nested) to switch bits";

impl Switch for Bits {
    type Capability = Views;
    type Setting = Width;

    fn axis(&self) -> &'static str {
        "bits"
    }
    fn load(&self, from: &Loading) -> Result<Option<Views>> {
        Ok(from.plan.form::<Params>(&NestedInt)?.map(|p| Views(p.views)))
    }
    fn values(&self, _: &Host, can: Option<&Views>) -> String {
        can.map_or_else(|| DENSE.into(), |v| v.0.iter().map(u8::to_string).collect::<Vec<_>>().join(", "))
    }
    fn resolve(&self, point: &Point, _: &Host, can: &Views) -> Result<Option<Width>> {
        match point.axis::<u8>("bits")? {
            Some(bits) if !can.0.contains(&bits) => Err(Error::point(
                format!("bits = {bits} is not available"),
                format!("this checkpoint offers {:?}", can.0),
            )),
            bits => Ok(bits.map(Width)),
        }
    }
    fn points(&self, _: &Host, can: &Views) -> Vec<NamedSetting> {
        let named = |bits: &u8| NamedSetting::new(format!("bits-{bits}"), format!("{bits}-bit weights"), *bits);
        can.0.iter().skip(1).map(named).collect()
    }
    fn train(&self) -> Option<&dyn TrainSwitch> {
        Some(self)
    }
}

/// Every step trains the widest view and one other, in turn by a seeded draw, which the widest teaches.
impl TrainSwitch for Bits {
    fn plan(&self, table: &Table, plan: &mut Plan) -> Result<()> {
        if !key::<Vec<u8>>(table, "bits")?.is_empty() {
            plan.forms.push(NestedInt::everywhere());
        }
        Ok(())
    }
    fn sample(&self, table: &Table, draws: &Draws, sampled: Sampled) -> Result<Sampled> {
        let bits: Vec<u8> = key(table, "bits")?;
        let Some((wide, narrow)) = bits.split_first() else { return Ok(sampled) };
        let mut all = Sampled { points: vec![draws.point(0).with("bits", *wide)], pulls: Vec::new() };
        if !narrow.is_empty() {
            // The first part keeps the draws that runs have had from the beginning.
            let stream = Stream::named("bits").fork(draws.seed).fork(draws.step);
            let mut stream = if draws.part == 0 { stream } else { stream.fork(draws.part) };
            let pick = stream.below(narrow.len() as u64) as usize;
            all.points.push(draws.point(1).with("bits", narrow[pick]));
            all.pulls.push(Pull::Distill { from: 0, to: 1, weight: key(table, "distill")? });
        }
        Ok(all)
    }
}

/// The axis `activation_bits`: bits of the activations that nested weights are multiplied with. Left out, they stay f32;
/// with 8, each row is rounded to 8 bits and products are exact integers.
pub struct ActivationBits;

/// The setting of the axis `activation_bits`: 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EightBits;

impl Switch for ActivationBits {
    type Capability = ();
    type Setting = EightBits;

    fn axis(&self) -> &'static str {
        "activation_bits"
    }
    fn former_name(&self) -> Option<&'static str> {
        Some("acts")
    }
    fn load(&self, from: &Loading) -> Result<Option<()>> {
        Ok(from.plan.form::<Params>(&NestedInt)?.map(|_| ()))
    }
    fn values(&self, _: &Host, can: Option<&()>) -> String {
        if can.is_some() { "8 (left out: f32)".into() } else { DENSE.into() }
    }
    fn resolve(&self, point: &Point, _: &Host, (): &()) -> Result<Option<EightBits>> {
        match point.axis::<u8>("activation_bits")? {
            None => Ok(None),
            Some(STORED) => Ok(Some(EightBits)),
            Some(other) => Err(Error::point(
                format!("activation_bits = {other} is not available"),
                "activation_bits takes 8; leave it out for f32",
            )),
        }
    }
    fn points(&self, _: &Host, (): &()) -> Vec<NamedSetting> {
        vec![NamedSetting::new("int8", "8-bit weights and 8-bit activations, multiplied as integers", STORED)]
    }
}

/// Width that a point asks for; the stored one by default.
fn width(point: &Point) -> u8 {
    point.setting::<Width>().map_or(STORED, |w| w.0)
}

/// A projection with nested 8-bit weights.
pub struct Nested {
    weight: NestedWeight,
    packed: PackedNested,
    bias: Option<Tensor>,
    dims: (usize, usize),
    at: String,
    source: dry::Source,
}

impl Nested {
    /// From stored codes `[out, in]` and scales `[out, groups]`.
    pub fn new(at: String, weight: NestedWeight, bias: Option<Tensor>, dims: (usize, usize)) -> Self {
        let bias = bias.map(|b| b.weight());
        Nested { weight, packed: PackedNested::default(), bias, dims, at, source: dry::Source::new() }
    }

    /// Post-training: codes of a dense matrix at the scales of [`group_scale`]. Shapes: w `[out, in]`.
    pub fn from_dense(at: String, w: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (out, inner) = w.dims2()?;
        let weight = ops::nested_codes(w, &group_scale(w)?)?;
        Ok(Nested::new(at, weight, bias, (inner, out)))
    }

    /// Inputs that share a scale.
    fn group(&self) -> usize {
        self.dims.0 / (self.weight.scale.len() / self.dims.1.max(1)).max(1)
    }

    /// The stored codes and scales.
    pub fn weight(&self) -> &NestedWeight {
        &self.weight
    }
}

/// Row scales at which the largest weight of a row is code 127. Shapes: w `[out, in]` -> `[out]`.
pub fn absmax_scale(w: &Tensor) -> Result<Tensor> {
    (w.abs()?.max(1)? / 127.0)? + 1e-12
}

/// Inputs that share a scale where a row is longer and has whole groups of them.
pub const GROUP: usize = 64;

/// Scales at which the largest weight of a group of [`GROUP`] inputs is code 127; of a row, where it has no whole groups.
/// Shapes: w `[out, in]` -> `[out, groups]`.
pub fn group_scale(w: &Tensor) -> Result<Tensor> {
    let (out, inner) = w.dims2()?;
    let groups = if inner.is_multiple_of(GROUP) { inner / GROUP } else { 1 };
    if groups < 2 {
        return absmax_scale(w)?.reshape((out, 1));
    }
    absmax_scale(&w.contiguous()?.reshape((out * groups, GROUP))?)?.reshape((out, groups))
}

impl Linear for Nested {
    fn forward(&self, cx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        self.forward_with(cx, x, &Epilogue::default())
    }
    fn forward_with(&self, cx: &mut Ctx, x: &Tensor, epilogue: &Epilogue) -> Result<Tensor> {
        let (inner, out) = self.dims;
        let rows = switchformer_nn::leaf::rows_of(x, inner, &self.at)?;
        cx.count(rows * inner * out);
        if cx.train {
            return Err(Error::point(
                format!("{} holds stored integers and cannot be trained", self.at),
                "train from the recipe's own weights, or open the checkpoint without --nested",
            ));
        }
        let (bits, bias) = (width(cx.point), self.bias.as_ref());
        if let Some(y) = hollow_of(x, self.source, self.dims, self.weight.scale.len(), bias, bits) {
            return epilogue.apply(y);
        }
        match cx.point.setting::<EightBits>() {
            Some(EightBits) => self.packed.linear_int8(x, &self.weight, bits, bias, epilogue),
            None => epilogue.apply(self.packed.linear(x, &self.weight, bits, bias)?),
        }
    }
    fn parts(&self, unit: usize) -> Option<&dyn Parts> {
        let group = self.group();
        // Whole groups, or halves of them that the kernels still take as groups.
        let fits = group == self.dims.0 || unit.is_multiple_of(group);
        (fits || (group.is_multiple_of(unit) && unit.is_multiple_of(16))).then_some(self)
    }
    fn dims(&self) -> (usize, usize) {
        self.dims
    }
    fn dense(&self, point: &Point) -> Result<Tensor> {
        self.weight.dense(width(point))
    }
}

impl Parts for Nested {
    fn part(&self, outs: &[Range<usize>], ins: &[Range<usize>]) -> Result<Box<dyn Linear>> {
        let (inner, out) = self.dims;
        if let Some(beyond) = outs.iter().find(|r| r.end > out).or_else(|| ins.iter().find(|r| r.end > inner)) {
            return Err(Error::shape(&self.at, format!("[{out}, {inner}]"), &[beyond.end]));
        }
        // A scale for every run of inputs that lies within one group; one for all where the row has one.
        let (group, of_row) = (self.group(), self.group() == inner);
        let step = ins.iter().fold(group, |step, r| gcd(gcd(step, r.start), r.end));
        let (mut codes, mut scale) = (Vec::new(), Vec::new());
        for row in outs.iter().cloned().flatten() {
            let (own, scales) = (&self.weight.codes[row * inner..][..inner], row * (inner / group));
            ins.iter().for_each(|r| codes.extend_from_slice(&own[r.clone()]));
            if of_row {
                scale.push(self.weight.scale[scales]);
            } else {
                let starts = ins.iter().flat_map(|r| r.clone().step_by(step));
                scale.extend(starts.map(|start| self.weight.scale[scales + start / group]));
            }
        }
        let bias = self.bias.as_ref().map(|b| ops::rows_at(b, outs)).transpose()?;
        let dims = (ins.iter().map(Range::len).sum(), outs.iter().map(Range::len).sum());
        Ok(Box::new(Nested::new(self.at.clone(), NestedWeight { codes, scale, out: dims.1 }, bias, dims)))
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A projection in training: dense weights and row scales, seen through the straight-through view of the point.
pub struct NestedTraining {
    weight: Tensor,
    log_scale: Tensor,
    bias: Option<Tensor>,
    at: String,
}

impl Linear for NestedTraining {
    fn forward(&self, cx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let (inner, out) = self.dims();
        let rows = switchformer_nn::leaf::rows_of(x, inner, &self.at)?;
        cx.count(rows * inner * out);
        if let Some(y) = hollow_of(x, self.weight.source(), (inner, out), out, self.bias.as_ref(), width(cx.point)) {
            return Ok(y);
        }
        let view = ops::nested_view(&self.weight, &self.log_scale.exp()?, width(cx.point))?;
        ops::linear(x, &view, self.bias.as_ref())
    }
    fn dims(&self) -> (usize, usize) {
        let d = self.weight.dims();
        (d[1], d[0])
    }
    fn dense(&self, point: &Point) -> Result<Tensor> {
        ops::nested_view(&self.weight, &self.log_scale.exp()?, width(point))
    }
}

/// The product where no numbers are looked at, with the bytes that a view of `bits` reads; `None` where they are.
fn hollow_of(
    x: &Tensor,
    source: dry::Source,
    (inner, out): (usize, usize),
    scales: usize,
    bias: Option<&Tensor>,
    bits: u8,
) -> Option<Tensor> {
    if !x.is_hollow() && !dry::is_dry() {
        return None;
    }
    dry::read(source, ((inner * out * bits as usize).div_ceil(8) + 4 * scales) as u64);
    [Some(x), bias].into_iter().flatten().for_each(Tensor::note_read);
    Some(Tensor::hollow((x.dims()[0], out), x.dtype()))
}

/// Suffix under which the log of the row scales is kept in training state.
pub const LOG_SCALE: &str = "weight_log_scale";

/// Parameters of the form in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    /// Width of the stored codes.
    stored_bits: u8,
    /// Widths at which they may be viewed, widest first.
    views: Vec<u8>,
}

/// The form `nested_int`: 8-bit codes, viewed at several widths. Every projection in the blocks takes it; projections
/// outside (heads, poolers) stay dense f32.
pub struct NestedInt;

impl NestedInt {
    /// The form in all blocks, with every view.
    pub fn everywhere() -> FormUse {
        FormUse::new(&NestedInt, json!({"stored_bits": STORED, "views": VIEWS}))
    }
}

impl Form for NestedInt {
    fn name(&self) -> &'static str {
        "nested_int"
    }
    fn check(&self, params: &Value, place: &str) -> Result<()> {
        let field = |name: &str| params.get(name).cloned().unwrap_or(Value::Null);
        if field("stored_bits").as_u64() != Some(u64::from(STORED)) {
            return Err(Error::unsupported(format!("{place}.stored_bits"), field("stored_bits"), "8"));
        }
        let width = |b: &Value| b.as_u64().is_some_and(|b| (2..=8).contains(&b));
        let views = field("views").as_array().is_some_and(|v| (1..=7).contains(&v.len()) && v.iter().all(width));
        if !views {
            return Err(Error::config(format!("{place}.views"), "must be a list of widths from 2 to 8"));
        }
        typed::<Params>(params, place).map(drop)
    }
    fn leaves(&self, sites: Sites, _: &Value, _: Option<&Weights>) -> Result<Arc<dyn LeafMaker>> {
        Ok(Arc::new(NestedLeaves { sites }))
    }
    /// Each matrix that has a log scale becomes its codes and row scales.
    fn save(&self, tensors: &mut SavedMap) -> Result<()> {
        let suffix = format!(".{LOG_SCALE}");
        let scaled: Vec<String> = tensors.keys().filter_map(|k| k.strip_suffix(&suffix).map(str::to_string)).collect();
        for base in &scaled {
            let Some(log) = tensors.remove(&format!("{base}{suffix}")) else { continue };
            let name = format!("{base}.weight");
            let Some(weight) = tensors.remove(&name) else { continue };
            let nested = ops::nested_codes(&tensor(&weight)?, &tensor(&log)?.exp()?)?;
            tensors.insert(format!("{base}.weight_scale"), Saved::f32(&log.shape, &nested.scale));
            tensors.insert(name, Saved::i8(&weight.shape, &nested.codes));
        }
        Ok(())
    }
}

fn tensor(s: &Saved) -> Result<Tensor> {
    let values: Vec<f32> = s.bytes.as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect();
    Tensor::from_vec(values, s.shape.as_slice())
}

/// Makes every projection at its sites nested.
struct NestedLeaves {
    sites: Sites,
}

impl LeafMaker for NestedLeaves {
    fn linear(&self, w: &Weights, spec: &LinearSpec) -> Result<Option<Box<dyn Linear>>> {
        let at = w.name(spec.parts[0]);
        if !self.sites.covers(&at) {
            return Ok(None);
        }
        let dims = (spec.in_dim, spec.out_dim * spec.parts.len());
        if w.is_trainable() {
            let (weight, bias) = w.dense_of(spec)?;
            if weight.is_hollow() {
                return Ok(Some(empty(at, dims)));
            }
            // A fresh matrix has deviation sigma; 0.02 sigma puts the 2-bit step near 1.3 sigma and 8 bits at 2.5.
            let sigma = weight.sqr()?.mean_all()?.sqrt()?.to_scalar::<f32>()?;
            let start = Tensor::full((0.02 * sigma.max(1e-6)).ln(), dims.1)?;
            let names = spec.parts.iter().map(|p| (w.name(&format!("{p}.{LOG_SCALE}")), spec.out_dim)).collect();
            let log_scale = w.register(start, names, ParamKind::Vector, None)?;
            return Ok(Some(Box::new(NestedTraining { weight, log_scale, bias, at })));
        }
        let shape = [spec.out_dim, spec.in_dim];
        let stored_codes = |p: &&str| w.codes(&format!("{p}.weight"), &shape);
        let parts: Vec<Option<Vec<i8>>> = spec.parts.iter().map(stored_codes).collect::<Result<_>>()?;
        let lost = |(part, codes): (&&str, &Option<Vec<i8>>)| codes.is_none() && !w.has(&format!("{part}.weight"));
        let damaged = parts.iter().any(Option::is_some) && spec.parts.iter().zip(&parts).any(lost);
        if !damaged && parts.iter().any(Option::is_none) {
            // Dense on disk: quantise now, after training.
            let (weight, bias) = w.dense_of(spec)?;
            if weight.is_hollow() {
                return Ok(Some(empty(at, dims)));
            }
            return Nested::from_dense(at, &weight, bias).map(|n| Some(Box::new(n) as Box<dyn Linear>));
        }
        let mut stored = NestedWeight { out: dims.1, ..NestedWeight::default() };
        let scales = scale_shape(w, spec);
        for (part, codes) in spec.parts.iter().zip(parts) {
            match codes {
                Some(codes) => stored.codes.extend(codes),
                // Recorded as missing.
                None => drop(w.tensor(&format!("{part}.weight"), &shape, ParamKind::Matrix)?),
            }
            let scale = w.tensor(&format!("{part}.weight_scale"), &scales, ParamKind::Vector)?;
            stored.scale.extend(scale.flatten_all()?.to_vec1::<f32>()?);
        }
        let bias = w.bias_of(spec)?;
        if stored.codes.len() != dims.0 * dims.1 {
            return Ok(Some(empty(at, dims)));
        }
        Ok(Some(Box::new(Nested::new(at, stored, bias, dims))))
    }
}

/// Shape of the stored scales of a projection's parts: `[out]`, or `[out, groups]` where the checkpoint has groups that
/// the kernels take.
fn scale_shape(w: &Weights, spec: &LinearSpec) -> Vec<usize> {
    match w.shape_of(&format!("{}.weight_scale", spec.parts[0])) {
        Some(&[out, groups])
            if out == spec.out_dim
                && groups > 0
                && spec.in_dim.is_multiple_of(groups)
                && (spec.in_dim / groups).is_multiple_of(16) =>
        {
            vec![out, groups]
        }
        _ => vec![spec.out_dim],
    }
}

/// The leaf in place of a matrix that is missing or misshaped, which `finish` will report. Nothing of the claimed size is
/// made: a config may claim anything.
fn empty(at: String, dims: (usize, usize)) -> Box<dyn Linear> {
    Box::new(Nested::new(at, NestedWeight::default(), None, dims))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use switchformer_nn::point::Settings;

    use super::*;

    /// Some outputs of some inputs compute with the stored integers of the whole, at every width.
    #[test]
    fn parts_hold_the_codes_of_the_whole() {
        let w = Weights::seeded();
        // One scale a row; groups of 64 inputs in whole; and in halves and quarters, as heads of 32 and of 16 need them.
        for (inner, unit) in [(96, 8), (256, 64), (256, 128), (256, 32), (256, 16)] {
            let whole = w.tensor("whole", &[24, inner], ParamKind::Matrix).unwrap();
            let bias = w.tensor("bias", &[24], ParamKind::Vector).unwrap();
            let nested = Nested::from_dense("whole".into(), &whole, Some(bias.clone())).unwrap();
            let (outs, ins) = ([2..5, 8..24], [0..unit, inner - unit..inner]);
            let some = |t: &Tensor| ops::columns_at(&ops::rows_at(t, &outs).unwrap(), &ins).unwrap();
            let part = nested.parts(unit).unwrap().part(&outs, &ins).unwrap();
            for bits in VIEWS {
                let point = Point::new().with_settings(Settings::new(vec![Arc::new(Width(bits))]));
                let (got, want) = (part.dense(&point).unwrap(), some(&nested.dense(&point).unwrap()));
                assert_eq!(got.to_vec2::<f32>().unwrap(), want.to_vec2::<f32>().unwrap(), "{inner}, {unit}, {bits}");
            }
            assert_eq!(part.dims(), (2 * unit, 19));
            assert!(nested.parts(unit).unwrap().part(&outs, &[0..unit, inner..inner + 1]).is_err());
        }
        let grouped =
            Nested::from_dense("w".into(), &w.tensor("w", &[8, 256], ParamKind::Matrix).unwrap(), None).unwrap();
        assert!(grouped.parts(8).is_none(), "the kernels take no groups of 8");
    }
}
