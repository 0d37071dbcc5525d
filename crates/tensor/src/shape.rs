//! Sizes, strides and ways to name a dimension.

use crate::{Result, bail};

/// The sizes of a tensor, outermost first.
#[derive(Clone, PartialEq, Eq)]
pub struct Shape(Vec<usize>);

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Shape {
    /// A shape of the given sizes.
    pub fn from_dims(dims: &[usize]) -> Shape {
        Shape(dims.to_vec())
    }

    /// The sizes.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Number of elements.
    pub fn elem_count(&self) -> usize {
        self.0.iter().product()
    }

    /// The two sizes of a matrix. Errors at another rank.
    pub fn dims2(&self) -> Result<(usize, usize)> {
        match self.0[..] {
            [a, b] => Ok((a, b)),
            _ => bail!("a tensor of shape {self:?} is no matrix"),
        }
    }

    /// Strides of a tensor whose elements lie one after another.
    pub(crate) fn strides(&self) -> Vec<usize> {
        let mut strides = vec![1; self.0.len()];
        for i in (0..self.0.len().saturating_sub(1)).rev() {
            strides[i] = strides[i + 1] * self.0[i + 1];
        }
        strides
    }

    /// The shape that both broadcast to, as numpy does.
    pub(crate) fn broadcast(&self, other: &Shape) -> Result<Shape> {
        let rank = self.rank().max(other.rank());
        let at = |s: &Shape, i: usize| (i + s.rank()).checked_sub(rank).map_or(1, |i| s.0[i]);
        let mut dims = Vec::with_capacity(rank);
        for i in 0..rank {
            match (at(self, i), at(other, i)) {
                (a, b) if a == b || b == 1 => dims.push(a),
                (1, b) => dims.push(b),
                _ => bail!("shapes {self:?} and {other:?} do not broadcast"),
            }
        }
        Ok(Shape(dims))
    }
}

impl From<usize> for Shape {
    fn from(d: usize) -> Shape {
        Shape(vec![d])
    }
}
impl From<()> for Shape {
    fn from((): ()) -> Shape {
        Shape(Vec::new())
    }
}
impl From<&[usize]> for Shape {
    fn from(d: &[usize]) -> Shape {
        Shape(d.to_vec())
    }
}
impl From<Vec<usize>> for Shape {
    fn from(d: Vec<usize>) -> Shape {
        Shape(d)
    }
}
impl From<&Shape> for Shape {
    fn from(s: &Shape) -> Shape {
        s.clone()
    }
}
impl<const N: usize> From<[usize; N]> for Shape {
    fn from(d: [usize; N]) -> Shape {
        Shape(d.to_vec())
    }
}
impl<const N: usize> From<&[usize; N]> for Shape {
    fn from(d: &[usize; N]) -> Shape {
        Shape(d.to_vec())
    }
}

macro_rules! one {
    ($t:ident) => {
        usize
    };
}

macro_rules! tuples {
    ($(($($t:ident),*)),*) => {$(
        impl From<($(one!($t),)*)> for Shape {
            #[allow(non_snake_case)]
            fn from(($($t,)*): ($(one!($t),)*)) -> Shape {
                Shape(vec![$($t),*])
            }
        }
    )*};
}
tuples!((A), (A, B), (A, B, C), (A, B, C, E), (A, B, C, E, F), (A, B, C, E, F, G));

/// A shape for [`crate::Tensor::reshape`], in which `()` stands for what is left.
pub trait ShapeWithHole {
    /// The whole shape of `count` elements.
    fn fill(self, count: usize) -> Result<Shape>;
}

impl<S: Into<Shape>> ShapeWithHole for S {
    fn fill(self, _: usize) -> Result<Shape> {
        Ok(self.into())
    }
}

fn rest(count: usize, known: usize) -> Result<usize> {
    if known == 0 || !count.is_multiple_of(known) {
        bail!("{count} elements do not divide into parts of {known}");
    }
    Ok(count / known)
}

impl ShapeWithHole for ((), usize) {
    fn fill(self, count: usize) -> Result<Shape> {
        Ok(Shape(vec![rest(count, self.1)?, self.1]))
    }
}
impl ShapeWithHole for (usize, ()) {
    fn fill(self, count: usize) -> Result<Shape> {
        Ok(Shape(vec![self.0, rest(count, self.0)?]))
    }
}

/// A dimension counted from the end.
#[derive(Clone, Copy, Debug)]
pub enum D {
    /// The last.
    Minus1,
    /// The last but one.
    Minus2,
}

/// Names one dimension.
pub trait Dim: Copy {
    /// Its index. Errors outside the rank.
    fn at(self, shape: &Shape) -> Result<usize>;
}

impl Dim for usize {
    fn at(self, shape: &Shape) -> Result<usize> {
        if self >= shape.rank() {
            bail!("a tensor of shape {shape:?} has no dimension {self}");
        }
        Ok(self)
    }
}

impl Dim for D {
    fn at(self, shape: &Shape) -> Result<usize> {
        let back = match self {
            D::Minus1 => 1,
            D::Minus2 => 2,
        };
        match shape.rank().checked_sub(back) {
            Some(d) => Ok(d),
            None => bail!("a tensor of shape {shape:?} has no dimension {back} from the end"),
        }
    }
}

/// Names several dimensions.
pub trait Dims {
    /// Their indices. Errors outside the rank.
    fn all(self, shape: &Shape) -> Result<Vec<usize>>;
}

impl<T: Dim> Dims for T {
    fn all(self, shape: &Shape) -> Result<Vec<usize>> {
        Ok(vec![self.at(shape)?])
    }
}
impl Dims for &[usize] {
    fn all(self, shape: &Shape) -> Result<Vec<usize>> {
        self.iter().map(|d| d.at(shape)).collect()
    }
}
impl Dims for Vec<usize> {
    fn all(self, shape: &Shape) -> Result<Vec<usize>> {
        self.as_slice().all(shape)
    }
}
impl<const N: usize> Dims for [usize; N] {
    fn all(self, shape: &Shape) -> Result<Vec<usize>> {
        self.as_slice().all(shape)
    }
}
macro_rules! dims {
    ($(($($t:ident),*)),*) => {$(
        impl<$($t: Dim),*> Dims for ($($t,)*) {
            #[allow(non_snake_case)]
            fn all(self, shape: &Shape) -> Result<Vec<usize>> {
                let ($($t,)*) = self;
                Ok(vec![$($t.at(shape)?),*])
            }
        }
    )*};
}
dims!((A, B), (A, B, C), (A, B, C, E), (A, B, C, E, F));

/// Where the elements of a view lie in its storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    shape: Shape,
    stride: Vec<usize>,
    start: usize,
}

impl Layout {
    /// Elements one after another from the first.
    pub fn contiguous(shape: impl Into<Shape>) -> Layout {
        let shape = shape.into();
        Layout { stride: shape.strides(), shape, start: 0 }
    }

    pub(crate) fn new(shape: Shape, stride: Vec<usize>, start: usize) -> Layout {
        Layout { shape, stride, start }
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The sizes.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// Steps in the storage along each dimension.
    pub fn stride(&self) -> &[usize] {
        &self.stride
    }

    /// The storage's index of the first element.
    pub fn start_offset(&self) -> usize {
        self.start
    }

    /// Whether elements lie one after another.
    pub fn is_contiguous(&self) -> bool {
        let mut expect = 1;
        for (d, s) in self.shape.dims().iter().zip(&self.stride).rev() {
            if *d > 1 && *s != expect {
                return false;
            }
            expect *= d;
        }
        true
    }

    /// First element and the one behind the last in the storage, where elements lie one after another.
    pub fn contiguous_offsets(&self) -> Option<(usize, usize)> {
        self.is_contiguous().then(|| (self.start, self.start + self.shape.elem_count()))
    }

    /// Calls `f` with the storage's index of each run of elements that lie `step` apart, and with the runs' length: the
    /// innermost dimensions are joined where they can be. Runs come in the order of elements.
    pub(crate) fn runs(&self, mut f: impl FnMut(usize)) -> (usize, usize) {
        let dims = self.dims();
        // Join dimensions from the inside.
        let mut joined: Vec<(usize, usize)> = Vec::with_capacity(dims.len());
        for (d, s) in dims.iter().zip(&self.stride).rev().filter(|(d, _)| **d != 1) {
            match joined.last_mut() {
                Some((n, step)) if *s == *step * *n => *n *= d,
                _ => joined.push((*d, *s)),
            }
        }
        let (len, step) = if joined.is_empty() { (1, 1) } else { joined.remove(0) };
        if self.shape.elem_count() == 0 {
            return (0, step);
        }
        let mut at = vec![0usize; joined.len()];
        let mut index = self.start;
        loop {
            f(index);
            let mut k = 0;
            loop {
                let Some((n, s)) = joined.get(k) else { return (len, step) };
                at[k] += 1;
                index += s;
                if at[k] < *n {
                    break;
                }
                index -= n * s;
                at[k] = 0;
                k += 1;
            }
        }
    }
}
