//! Operations element by element, with broadcasting, and operators.

use std::ops::{Add, Div, Mul, Neg, Sub};

use crate::graph::Node;
use crate::shape::{Layout, Shape};
use crate::storage::{CpuStorage, DType, WithDType};
use crate::tensor::gathered;
use crate::{Result, Tensor, bail};

/// `f` of each element of two layouts that have one shape.
fn zip<T: Copy, R>(a: &[T], la: &Layout, b: &[T], lb: &Layout, f: impl Fn(T, T) -> R) -> Vec<R> {
    if let (Some((a0, a1)), Some((b0, b1))) = (la.contiguous_offsets(), lb.contiguous_offsets()) {
        return a[a0..a1].iter().zip(&b[b0..b1]).map(|(x, y)| f(*x, *y)).collect();
    }
    if let Some((a0, a1)) = la.contiguous_offsets() {
        let a = &a[a0..a1];
        let n = a.len();
        let mut out = Vec::with_capacity(n);
        let mut starts = Vec::new();
        let (len, step) = lb.runs(|at| starts.push(at));
        for (row, at) in a.chunks_exact(len.max(1)).zip(starts) {
            match step {
                0 => out.extend(row.iter().map(|x| f(*x, b[at]))),
                1 => out.extend(row.iter().zip(&b[at..at + len]).map(|(x, y)| f(*x, *y))),
                _ => out.extend(row.iter().zip(b[at..].iter().step_by(step)).map(|(x, y)| f(*x, *y))),
            }
        }
        return out;
    }
    let (a, b) = (gathered(a, la), gathered(b, lb));
    a.iter().zip(&b).map(|(x, y)| f(*x, *y)).collect()
}

/// A function of two numbers for both types of floats, and for ids where it makes sense.
trait Pair {
    fn of<T: Number>(a: T, b: T) -> T;
}

/// What elements can do.
trait Number: WithDType + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> {
    fn least(self, other: Self) -> Self;
    fn most(self, other: Self) -> Self;
}
macro_rules! number {
    ($($t:ty: $least:expr, $most:expr;)*) => {$(
        impl Number for $t {
            fn least(self, other: Self) -> Self {
                $least(self, other)
            }
            fn most(self, other: Self) -> Self {
                $most(self, other)
            }
        }
    )*};
}
number! {
    f32: f32::min, f32::max;
    f64: f64::min, f64::max;
}

macro_rules! pairs {
    ($($name:ident: |$a:ident, $b:ident| $body:expr;)*) => {$(
        struct $name;
        impl Pair for $name {
            #[inline(always)]
            fn of<T: Number>($a: T, $b: T) -> T {
                $body
            }
        }
    )*};
}
pairs! {
    Sum: |a, b| a + b;
    Difference: |a, b| a - b;
    Product: |a, b| a * b;
    Quotient: |a, b| a / b;
    Least: |a, b| a.least(b);
    Most: |a, b| a.most(b);
}

/// A function of one float, without history.
fn map(x: &Tensor, name: &str, f: impl Fn(f32) -> f32, g: impl Fn(f64) -> f64) -> Result<Tensor> {
    if let Some(hollow) = Tensor::hollow_of(&[x], x.shape(), x.dtype()) {
        return Ok(hollow);
    }
    let (s, l) = x.storage_and_layout();
    let span = |n: usize| l.contiguous_offsets().unwrap_or((0, n));
    let storage = match &*s {
        CpuStorage::F32(v) if l.is_contiguous() => {
            let (from, to) = span(v.len());
            CpuStorage::F32(v[from..to].iter().map(|x| f(*x)).collect())
        }
        CpuStorage::F32(v) => CpuStorage::F32(gathered(v, l).into_iter().map(f).collect()),
        CpuStorage::F64(v) => CpuStorage::F64(gathered(v, l).into_iter().map(g).collect()),
        other => bail!("{name} of {:?}; give floats", other.dtype()),
    };
    Ok(Tensor::made(storage, x.shape().clone(), None))
}

impl Tensor {
    /// The result without history.
    fn pair<P: Pair>(&self, other: &Tensor, name: &str) -> Result<Tensor> {
        if self.dtype() != other.dtype() {
            bail!("{name} of {:?} and {:?}", self.dtype(), other.dtype());
        }
        let shape = self.shape().broadcast(other.shape())?;
        if let Some(hollow) = Tensor::hollow_of(&[self, other], &shape, self.dtype()) {
            return Ok(hollow);
        }
        let (a, b) = (self.detach().broadcast_as(&shape)?, other.detach().broadcast_as(&shape)?);
        let ((s, l), (t, m)) = (a.storage_and_layout(), b.storage_and_layout());
        let storage = match (&*s, &*t) {
            (CpuStorage::F32(x), CpuStorage::F32(y)) => CpuStorage::F32(zip(x, l, y, m, P::of)),
            (CpuStorage::F64(x), CpuStorage::F64(y)) => CpuStorage::F64(zip(x, l, y, m, P::of)),
            _ => bail!("{name} of {:?}; give f32 or f64", self.dtype()),
        };
        Ok(Tensor::made(storage, shape, None))
    }

    fn same_shape(&self, other: &Tensor, name: &str) -> Result<()> {
        if self.shape() != other.shape() {
            bail!("{name} of shapes {:?} and {:?}", self.dims(), other.dims());
        }
        Ok(())
    }

    /// The sum over what a tensor of shape `to` was broadcast along.
    pub(crate) fn summed_to(&self, to: &Shape) -> Result<Tensor> {
        if self.shape() == to {
            return Ok(self.clone());
        }
        let front = self.rank() - to.rank();
        let mut sum: Vec<usize> = (0..front).collect();
        sum.extend((0..to.rank()).filter(|i| to.dims()[*i] == 1 && self.dims()[front + i] != 1).map(|i| front + i));
        self.sum_keepdim(sum)?.reshape(to)
    }

    /// Element by element, one broadcast to the other.
    pub fn broadcast_add(&self, other: &Tensor) -> Result<Tensor> {
        let y = self.pair::<Sum>(other, "a sum")?;
        let (a, b) = (self.shape().clone(), other.shape().clone());
        let node = Node::of([self, other], move |_, g| Ok(vec![Some(g.summed_to(&a)?), Some(g.summed_to(&b)?)]));
        Ok(Tensor::made_of(&y, node))
    }

    /// See [`Tensor::broadcast_add`].
    pub fn broadcast_sub(&self, other: &Tensor) -> Result<Tensor> {
        let y = self.pair::<Difference>(other, "a difference")?;
        let (a, b) = (self.shape().clone(), other.shape().clone());
        let node = Node::of([self, other], move |_, g| Ok(vec![Some(g.summed_to(&a)?), Some(g.neg()?.summed_to(&b)?)]));
        Ok(Tensor::made_of(&y, node))
    }

    /// See [`Tensor::broadcast_add`].
    pub fn broadcast_mul(&self, other: &Tensor) -> Result<Tensor> {
        let y = self.pair::<Product>(other, "a product")?;
        let (a, b, learns) = (self.detach(), other.detach(), [self.track_op(), other.track_op()]);
        let node = Node::of([self, other], move |_, g| {
            let one = |own: &Tensor, other: &Tensor, learns: bool| -> Result<Option<Tensor>> {
                if learns { g.broadcast_mul(other)?.summed_to(own.shape()).map(Some) } else { Ok(None) }
            };
            Ok(vec![one(&a, &b, learns[0])?, one(&b, &a, learns[1])?])
        });
        Ok(Tensor::made_of(&y, node))
    }

    /// See [`Tensor::broadcast_add`].
    pub fn broadcast_div(&self, other: &Tensor) -> Result<Tensor> {
        let y = self.pair::<Quotient>(other, "a quotient")?;
        let (a, b) = (self.detach(), other.detach());
        let node = Node::of([self, other], move |res, g| {
            let da = g.broadcast_div(&b)?;
            let db = da.broadcast_mul(res)?.neg()?.summed_to(b.shape())?;
            Ok(vec![Some(da.summed_to(a.shape())?), Some(db)])
        });
        Ok(Tensor::made_of(&y, node))
    }

    /// The lesser of two, element by element. Where both are equal each gets half of the gradient.
    pub fn minimum(&self, other: &Tensor) -> Result<Tensor> {
        self.chosen::<Least>(other, "a minimum")
    }

    /// The greater of two, element by element. Where both are equal each gets half of the gradient.
    pub fn maximum(&self, other: &Tensor) -> Result<Tensor> {
        self.chosen::<Most>(other, "a maximum")
    }

    fn chosen<P: Pair>(&self, other: &Tensor, name: &str) -> Result<Tensor> {
        self.same_shape(other, name)?;
        let y = self.pair::<P>(other, name)?;
        let (a, b) = (self.detach(), other.detach());
        let node = Node::of([self, other], move |res, g| {
            let of = |t: &Tensor| t.eq(res)?.to_dtype(g.dtype());
            let (a, b) = (of(&a)?, of(&b)?);
            let both = (&a + &b)?;
            Ok(vec![Some(((g * a)? / &both)?), Some(((g * b)? / both)?)])
        });
        Ok(Tensor::made_of(&y, node))
    }

    /// `self * factor + term`.
    pub fn affine(&self, factor: f64, term: f64) -> Result<Tensor> {
        let (f, t) = (factor as f32, term as f32);
        let y = map(self, "a multiple", |x| x * f + t, |x| x * factor + term)?;
        let node = Node::of([self], move |_, g| Ok(vec![Some(g.affine(factor, 0.0)?)]));
        Ok(Tensor::made_of(&y, node))
    }

    /// `slope(x, y, g)` is the gradient at `x` of `y = f(x)` where `g` is the one at `y`.
    fn unary(
        &self,
        name: &str,
        f: impl Fn(f32) -> f32,
        h: impl Fn(f64) -> f64,
        slope: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Result<Tensor> {
        let y = map(self, name, f, h)?;
        let x = self.detach();
        let node = Node::of([self], move |y, g| Ok(vec![Some(slope(&x, y, g)?)]));
        Ok(Tensor::made_of(&y, node))
    }

    /// The opposite.
    pub fn neg(&self) -> Result<Tensor> {
        self.unary("a negative", |x| -x, |x| -x, |_, _, g| g.neg())
    }

    /// `e` to the power of each.
    pub fn exp(&self) -> Result<Tensor> {
        self.unary("an exponential", f32::exp, f64::exp, |_, y, g| g * y)
    }

    /// Natural logarithm.
    pub fn log(&self) -> Result<Tensor> {
        self.unary("a logarithm", f32::ln, f64::ln, |x, _, g| g / x)
    }

    /// Sine.
    pub fn sin(&self) -> Result<Tensor> {
        self.unary("a sine", f32::sin, f64::sin, |x, _, g| g * x.cos()?)
    }

    /// Cosine.
    pub fn cos(&self) -> Result<Tensor> {
        self.unary("a cosine", f32::cos, f64::cos, |x, _, g| g * x.sin()?.neg()?)
    }

    /// Square.
    pub fn sqr(&self) -> Result<Tensor> {
        self.unary("a square", |x| x * x, |x| x * x, |x, _, g| (g * x)? * 2.0)
    }

    /// Square root.
    pub fn sqrt(&self) -> Result<Tensor> {
        self.unary("a root", f32::sqrt, f64::sqrt, |_, y, g| (g / y)? * 0.5)
    }

    /// One over each.
    pub fn recip(&self) -> Result<Tensor> {
        self.unary("a reciprocal", |x| 1.0 / x, |x| 1.0 / x, |_, y, g| (g * y.sqr()?)?.neg())
    }

    /// Magnitude.
    pub fn abs(&self) -> Result<Tensor> {
        self.unary("a magnitude", f32::abs, f64::abs, |x, _, g| g * x.sign()?)
    }

    /// -1, 0 or 1; without a gradient.
    pub fn sign(&self) -> Result<Tensor> {
        let sign = |x: f64| f64::from(i8::from(x > 0.0) - i8::from(x < 0.0));
        map(self, "a sign", |x| sign(x.into()) as f32, sign)
    }

    /// To a power.
    pub fn powf(&self, e: f64) -> Result<Tensor> {
        let slope = move |x: &Tensor, _: &Tensor, g: &Tensor| (g * x.powf(e - 1.0)?)? * e;
        self.unary("a power", |x| x.powf(e as f32), |x| x.powf(e), slope)
    }

    /// Whole numbers not above; without a gradient.
    pub fn floor(&self) -> Result<Tensor> {
        map(self, "a floor", f32::floor, f64::floor)
    }

    /// The nearest whole numbers, halves away from zero; without a gradient.
    pub fn round(&self) -> Result<Tensor> {
        map(self, "a rounded number", f32::round, f64::round)
    }

    /// Held between two bounds; outside there is no gradient.
    pub fn clamp(&self, least: f64, most: f64) -> Result<Tensor> {
        let slope = move |x: &Tensor, _: &Tensor, g: &Tensor| {
            let inside = (x.ge(least)?.to_dtype(g.dtype())? * x.le(most)?.to_dtype(g.dtype())?)?;
            g * inside
        };
        let (a, b) = (least as f32, most as f32);
        self.unary("a bounded number", |x| x.clamp(a, b), |x| x.clamp(least, most), slope)
    }

    /// Hyperbolic tangent.
    pub fn tanh(&self) -> Result<Tensor> {
        self.unary("a tanh", f32::tanh, f64::tanh, |_, y, g| g * y.sqr()?.affine(-1.0, 1.0)?)
    }

    /// What is above zero.
    pub fn relu(&self) -> Result<Tensor> {
        let slope = |x: &Tensor, _: &Tensor, g: &Tensor| g * x.gt(0.0)?.to_dtype(g.dtype())?;
        self.unary("a ReLU", |x| x.max(0.0), |x| x.max(0.0), slope)
    }

    /// `x / (1 + exp(-x))`.
    pub fn silu(&self) -> Result<Tensor> {
        let slope = |x: &Tensor, y: &Tensor, g: &Tensor| {
            // s + y (1 - s)
            let s = x.neg()?.exp()?.affine(1.0, 1.0)?.recip()?;
            g * (&s + (y * s.affine(-1.0, 1.0)?)?)?
        };
        self.unary("a SiLU", |x| x / (1.0 + (-x).exp()), |x| x / (1.0 + (-x).exp()), slope)
    }

    /// GELU by its tanh approximation.
    pub fn gelu(&self) -> Result<Tensor> {
        const C: f64 = 0.797_884_560_802_865_4; // sqrt(2 / pi)
        let at = |x: f64| 0.5 * x * (1.0 + (C * (x + 0.044715 * x * x * x)).tanh());
        let slope = |x: &Tensor, _: &Tensor, g: &Tensor| {
            let t = ((x + (x.sqr()? * x)?.affine(0.044715, 0.0)?)? * C)?.tanh()?;
            let inner = x.sqr()?.affine(3.0 * 0.044715 * C, C)?;
            let outer = t.affine(0.5, 0.5)?;
            let slope = ((x * t.sqr()?.affine(-0.5, 0.5)?)? * inner)?;
            g * (outer + slope)?
        };
        self.unary("a GELU", |x| at(x.into()) as f32, at, slope)
    }

    /// GELU by the error function.
    pub fn gelu_erf(&self) -> Result<Tensor> {
        let at = |x: f64| 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2));
        let slope = |x: &Tensor, _: &Tensor, g: &Tensor| {
            let of = |x: f64| {
                let density = (-0.5 * x * x).exp() * 0.398_942_280_401_432_7; // 1 / sqrt(2 pi)
                0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)) + x * density
            };
            let slope = map(x, "a GELU", |x| of(x.into()) as f32, of)?;
            g * slope
        };
        self.unary("a GELU", |x| at(x.into()) as f32, at, slope)
    }

    fn compare(&self, other: impl Compared, f: impl Fn(f64, f64) -> bool) -> Result<Tensor> {
        let other = other.tensor(self)?;
        let shape = self.shape().broadcast(other.shape())?;
        if let Some(hollow) = Tensor::hollow_of(&[self, &other], &shape, DType::U8) {
            return Ok(hollow);
        }
        let of = |t: &Tensor| t.detach().broadcast_as(&shape)?.to_dtype(DType::F64)?.values::<f64>();
        let (a, b) = (of(self)?, of(&other)?);
        let v = a.iter().zip(&b).map(|(a, b)| u8::from(f(*a, *b))).collect();
        Ok(Tensor::made(CpuStorage::U8(v), shape, None))
    }

    /// 1 where equal, else 0.
    pub fn eq(&self, other: impl Compared) -> Result<Tensor> {
        self.compare(other, |a, b| a == b)
    }
    /// 1 where less, else 0.
    pub fn lt(&self, other: impl Compared) -> Result<Tensor> {
        self.compare(other, |a, b| a < b)
    }
    /// 1 where greater, else 0.
    pub fn gt(&self, other: impl Compared) -> Result<Tensor> {
        self.compare(other, |a, b| a > b)
    }
    /// 1 where not greater, else 0.
    pub fn le(&self, other: impl Compared) -> Result<Tensor> {
        self.compare(other, |a, b| a <= b)
    }
    /// 1 where not less, else 0.
    pub fn ge(&self, other: impl Compared) -> Result<Tensor> {
        self.compare(other, |a, b| a >= b)
    }
}

/// A tensor or a number to compare with.
pub trait Compared {
    /// As a tensor that broadcasts to `like`.
    fn tensor(self, like: &Tensor) -> Result<Tensor>;
}
impl Compared for &Tensor {
    fn tensor(self, _: &Tensor) -> Result<Tensor> {
        Ok(self.clone())
    }
}
impl<T: WithDType> Compared for T {
    fn tensor(self, _: &Tensor) -> Result<Tensor> {
        Tensor::full(self, ())
    }
}

/// The error function to double precision: a series near zero, a continued fraction beyond.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 2.5 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-17 * sum.abs() {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
            if n > 200.0 {
                break;
            }
        }
        return (sum * std::f64::consts::FRAC_2_SQRT_PI).copysign(x);
    }
    if a > 6.0 {
        return 1f64.copysign(x);
    }
    let mut f = a;
    for k in (1..=60).rev() {
        f = a + (f64::from(k) / 2.0) / f;
    }
    (1.0 - (-a * a).exp() / (f * std::f64::consts::PI.sqrt())).copysign(x)
}

macro_rules! operator {
    ($($trait:ident, $fn:ident, $name:literal, $broadcast:ident, $number:expr, $reverse:expr;)*) => {$(
        impl $trait<&Tensor> for &Tensor {
            type Output = Result<Tensor>;
            fn $fn(self, other: &Tensor) -> Result<Tensor> {
                self.same_shape(other, $name)?;
                self.$broadcast(other)
            }
        }
        impl $trait<Tensor> for &Tensor {
            type Output = Result<Tensor>;
            fn $fn(self, other: Tensor) -> Result<Tensor> {
                self.$fn(&other)
            }
        }
        impl $trait<&Tensor> for Tensor {
            type Output = Result<Tensor>;
            fn $fn(self, other: &Tensor) -> Result<Tensor> {
                (&self).$fn(other)
            }
        }
        impl $trait<Tensor> for Tensor {
            type Output = Result<Tensor>;
            fn $fn(self, other: Tensor) -> Result<Tensor> {
                (&self).$fn(&other)
            }
        }
        impl $trait<f64> for &Tensor {
            type Output = Result<Tensor>;
            fn $fn(self, other: f64) -> Result<Tensor> {
                $number(self, other)
            }
        }
        impl $trait<f64> for Tensor {
            type Output = Result<Tensor>;
            fn $fn(self, other: f64) -> Result<Tensor> {
                $number(&self, other)
            }
        }
        impl $trait<&Tensor> for f64 {
            type Output = Result<Tensor>;
            fn $fn(self, other: &Tensor) -> Result<Tensor> {
                $reverse(self, other)
            }
        }
        impl $trait<Tensor> for f64 {
            type Output = Result<Tensor>;
            fn $fn(self, other: Tensor) -> Result<Tensor> {
                $reverse(self, &other)
            }
        }
    )*};
}
operator! {
    Add, add, "a sum", broadcast_add, |t: &Tensor, v: f64| t.affine(1.0, v), |v: f64, t: &Tensor| t.affine(1.0, v);
    Sub, sub, "a difference", broadcast_sub, |t: &Tensor, v: f64| t.affine(1.0, -v), |v: f64, t: &Tensor| t.affine(-1.0, v);
    Mul, mul, "a product", broadcast_mul, |t: &Tensor, v: f64| t.affine(v, 0.0), |v: f64, t: &Tensor| t.affine(v, 0.0);
    Div, div, "a quotient", broadcast_div, |t: &Tensor, v: f64| t.affine(1.0 / v, 0.0),
        |v: f64, t: &Tensor| t.recip()?.affine(v, 0.0);
}

impl Neg for &Tensor {
    type Output = Result<Tensor>;
    fn neg(self) -> Result<Tensor> {
        Tensor::neg(self)
    }
}
