//! The tensor: a view of shared storage, and how it came about where a gradient may be asked for.

use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use crate::dry;
use crate::graph::Node;
use crate::shape::{Dim, Dims, Layout, Shape, ShapeWithHole};
use crate::storage::{CpuStorage, DType, WithDType, convert, each, from_bytes};
use crate::{Result, bail};

/// Tells tensors apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(usize);

impl TensorId {
    fn new() -> TensorId {
        TensorId(dry::fresh())
    }
}

/// Numbers that lie elsewhere, such as in a mapped file, until somebody looks at them.
pub trait Elsewhere: Send + Sync {
    /// All of them, in order.
    fn read(&self) -> Vec<f32>;
    /// Appends `len` of them from the given place on.
    fn append(&self, from: usize, len: usize, out: &mut Vec<f32>);
}

/// The memory of one or several views.
struct Home {
    id: usize,
    here: OnceLock<RwLock<CpuStorage>>,
    /// Where the numbers come from if they are not here yet.
    from: Numbers,
}

enum Numbers {
    Here,
    Elsewhere(Arc<dyn Elsewhere>),
    /// There are none. Who looks all the same sees so many zeros.
    Nowhere(usize, DType),
}

impl Home {
    fn new(here: OnceLock<RwLock<CpuStorage>>, from: Numbers) -> Arc<Home> {
        Arc::new(Home { id: dry::fresh(), here, from })
    }

    fn of(storage: CpuStorage) -> Arc<Home> {
        Home::new(RwLock::new(storage).into(), Numbers::Here)
    }

    fn storage(&self) -> &RwLock<CpuStorage> {
        self.here.get_or_init(|| {
            RwLock::new(match &self.from {
                Numbers::Here => CpuStorage::F32(Vec::new()),
                Numbers::Elsewhere(numbers) => CpuStorage::F32(numbers.read()),
                Numbers::Nowhere(n, dtype) => convert(&vec![0u8; *n], *dtype),
            })
        })
    }
}

pub(crate) struct Inner {
    id: TensorId,
    storage: Arc<Home>,
    layout: Layout,
    dtype: DType,
    variable: bool,
    /// Whether it is a part of a model, or a view of one.
    weight: bool,
    node: Option<Node>,
}

/// Numbers in a shape. Cloning shares them.
#[derive(Clone)]
pub struct Tensor(pub(crate) Arc<Inner>);

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor[{:?} {:?}]", self.dims(), self.dtype())
    }
}

impl AsRef<Tensor> for Tensor {
    fn as_ref(&self) -> &Tensor {
        self
    }
}

/// Nested arrays that [`Tensor::new`] takes.
pub trait NdArray<T> {
    /// Their elements and shape.
    fn parts(&self) -> (Vec<T>, Vec<usize>);
}

impl<T: WithDType> NdArray<T> for T {
    fn parts(&self) -> (Vec<T>, Vec<usize>) {
        (vec![*self], Vec::new())
    }
}
impl<T: WithDType> NdArray<T> for &[T] {
    fn parts(&self) -> (Vec<T>, Vec<usize>) {
        (self.to_vec(), vec![self.len()])
    }
}
impl<T: WithDType, const N: usize> NdArray<T> for &[T; N] {
    fn parts(&self) -> (Vec<T>, Vec<usize>) {
        (self.to_vec(), vec![N])
    }
}
impl<T: WithDType, const N: usize, const M: usize> NdArray<T> for &[[T; M]; N] {
    fn parts(&self) -> (Vec<T>, Vec<usize>) {
        (self.concat(), vec![N, M])
    }
}

impl Tensor {
    pub(crate) fn made(storage: CpuStorage, shape: Shape, node: Option<Node>) -> Tensor {
        let (dtype, layout) = (storage.dtype(), Layout::contiguous(shape));
        let storage = Home::of(storage);
        Tensor(Arc::new(Inner { id: TensorId::new(), storage, layout, dtype, variable: false, weight: false, node }))
    }

    pub(crate) fn variable(storage: CpuStorage, shape: Shape) -> Tensor {
        let (dtype, layout) = (storage.dtype(), Layout::contiguous(shape));
        let storage = Home::of(storage);
        Tensor(Arc::new(Inner {
            id: TensorId::new(),
            storage,
            layout,
            dtype,
            variable: true,
            weight: true,
            node: None,
        }))
    }

    /// A view of the same storage.
    pub(crate) fn view(&self, layout: Layout, node: Option<Node>) -> Tensor {
        let (storage, dtype, weight) = (self.0.storage.clone(), self.0.dtype, self.0.weight);
        Tensor(Arc::new(Inner { id: TensorId::new(), storage, layout, dtype, variable: false, weight, node }))
    }

    pub(crate) fn storage(&self) -> &RwLock<CpuStorage> {
        self.0.storage.storage()
    }

    /// What has not been read yet, of a tensor that has all of it in order.
    fn unread(&self) -> Option<&dyn Elsewhere> {
        let home = &self.0.storage;
        match &home.from {
            Numbers::Elsewhere(numbers) if home.here.get().is_none() && self.is_contiguous() => Some(numbers.as_ref()),
            _ => None,
        }
    }

    /// A tensor without numbers: operations on it give shapes alone.
    pub fn hollow(shape: impl Into<Shape>, dtype: DType) -> Tensor {
        let layout = Layout::contiguous(shape);
        let from = Numbers::Nowhere(layout.shape().elem_count(), dtype);
        let storage = Home::new(OnceLock::new(), from);
        Tensor(Arc::new(Inner {
            id: TensorId::new(),
            storage,
            layout,
            dtype,
            variable: false,
            weight: false,
            node: None,
        }))
    }

    /// Whether operations take its shape alone: it has no numbers, or it is a weight and this thread runs [`dry::dry`].
    pub fn is_hollow(&self) -> bool {
        matches!(self.0.storage.from, Numbers::Nowhere(..)) || (self.0.weight && dry::is_dry())
    }

    /// What an operation makes of hollow tensors; `None` where all that it reads have numbers. A dry run takes down which
    /// weights were read.
    pub fn hollow_of(read: &[&Tensor], shape: impl Into<Shape>, dtype: DType) -> Option<Tensor> {
        if !read.iter().any(|t| t.is_hollow()) {
            return None;
        }
        read.iter().for_each(|t| t.note_read());
        Some(Tensor::hollow(shape, dtype))
    }

    /// Takes down that it was read, where it is a weight and this thread runs [`dry::dry`].
    pub fn note_read(&self) {
        if self.0.weight && dry::is_dry() {
            let source = self.source();
            dry::read(source, (source.len * self.dtype().size_in_bytes()) as u64);
        }
    }

    /// The numbers that reading it reads.
    pub fn source(&self) -> dry::Source {
        // A broadcast view repeats numbers; they are read once.
        let l = self.layout();
        let len = l.dims().iter().zip(l.stride()).filter(|(_, s)| **s != 0).map(|(d, _)| d).product();
        dry::Source { home: self.0.storage.id, from: l.start_offset(), len }
    }

    /// The same numbers as a part of a model, whose bytes a dry run counts.
    pub fn weight(&self) -> Tensor {
        let Inner { id, storage, layout, dtype, variable, node, .. } = &*self.0;
        let (id, storage, layout, dtype, variable) = (*id, storage.clone(), layout.clone(), *dtype, *variable);
        Tensor(Arc::new(Inner { id, storage, layout, dtype, variable, weight: true, node: node.clone() }))
    }

    pub(crate) fn node(&self) -> Option<&Node> {
        self.0.node.as_ref()
    }

    /// The storage, and where this tensor's elements lie in it.
    pub fn storage_and_layout(&self) -> (RwLockReadGuard<'_, CpuStorage>, &Layout) {
        // A panic while values change leaves numbers, not a broken structure.
        (self.storage().read().unwrap_or_else(PoisonError::into_inner), &self.0.layout)
    }

    /// Elements of a vector in a shape. Errors when their numbers differ.
    pub fn from_vec<T: WithDType>(v: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        if v.len() != shape.elem_count() {
            bail!("{} values do not fill a shape of {shape:?}", v.len());
        }
        Ok(Tensor::made(T::store(v), shape, None))
    }

    /// A weight of f32 whose numbers are read when somebody looks at them, and then kept.
    pub fn elsewhere(numbers: Arc<dyn Elsewhere>, shape: impl Into<Shape>) -> Tensor {
        let layout = Layout::contiguous(shape);
        let storage = Home::new(OnceLock::new(), Numbers::Elsewhere(numbers));
        let (id, dtype) = (TensorId::new(), DType::F32);
        Tensor(Arc::new(Inner { id, storage, layout, dtype, variable: false, weight: true, node: None }))
    }

    /// The same numbers in memory, without keeping in `self` what lies elsewhere and was not read yet.
    pub fn fetched(&self) -> Tensor {
        match self.unread().filter(|_| !self.is_hollow()) {
            Some(numbers) => {
                let (from, len) = (self.layout().start_offset(), self.elem_count());
                let mut all = Vec::with_capacity(len);
                numbers.append(from, len, &mut all);
                Tensor::made(CpuStorage::F32(all), self.shape().clone(), None)
            }
            None => self.clone(),
        }
    }

    /// Rows of a matrix that lies elsewhere and was not read yet, without reading the others; `None` where it is here.
    /// Errors on a row that there is not. Shapes: `[n, width]`, `m` rows -> `[m, width]`.
    pub fn fetched_rows(&self, rows: &[u32]) -> Result<Option<Tensor>> {
        let Some(numbers) = self.unread().filter(|_| !self.is_hollow()) else { return Ok(None) };
        let (n, width) = self.dims2()?;
        let mut all = Vec::with_capacity(rows.len() * width);
        for row in rows {
            if *row as usize >= n {
                bail!("row {row} of {n}");
            }
            numbers.append(self.layout().start_offset() + *row as usize * width, width, &mut all);
        }
        Tensor::from_vec(all, (rows.len(), width)).map(Some)
    }

    /// Copies elements into a shape. Errors when their numbers differ.
    pub fn from_slice<T: WithDType>(v: &[T], shape: impl Into<Shape>) -> Result<Tensor> {
        Tensor::from_vec(v.to_vec(), shape)
    }

    /// Elements from bytes in little-endian order. Errors when their numbers differ.
    pub fn from_raw_buffer(bytes: &[u8], dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let (storage, shape) = (from_bytes(bytes, dtype)?, Shape::from(shape));
        if storage.len() != shape.elem_count() {
            bail!("{} values do not fill a shape of {shape:?}", storage.len());
        }
        Ok(Tensor::made(storage, shape, None))
    }

    /// A tensor of nested arrays.
    pub fn new<T: WithDType>(array: impl NdArray<T>) -> Result<Tensor> {
        let (values, shape) = array.parts();
        Tensor::from_vec(values, shape)
    }

    /// One value everywhere.
    pub fn full<T: WithDType>(value: T, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        Tensor::from_vec(vec![value; shape.elem_count()], shape)
    }

    /// Zeros.
    pub fn zeros(shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let shape = shape.into();
        let n = shape.elem_count();
        let storage = match dtype {
            DType::F32 => CpuStorage::F32(vec![0.0; n]),
            other => convert(&vec![0u8; n], other),
        };
        Ok(Tensor::made(storage, shape, None))
    }

    /// Ones.
    pub fn ones(shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let shape = shape.into();
        let storage = convert(&vec![1u8; shape.elem_count()], dtype);
        Ok(Tensor::made(storage, shape, None))
    }

    /// Zeros of this shape and type.
    pub fn zeros_like(&self) -> Result<Tensor> {
        Tensor::zeros(self.shape(), self.dtype())
    }

    /// Ones of this shape and type.
    pub fn ones_like(&self) -> Result<Tensor> {
        Tensor::ones(self.shape(), self.dtype())
    }

    /// Whole steps from `start` to below `end`.
    pub fn arange(start: f32, end: f32) -> Result<Tensor> {
        let v: Vec<f32> = (0..).map(|i| start + i as f32).take_while(|v| *v < end).collect();
        let n = v.len();
        Tensor::from_vec(v, n)
    }

    /// Tells it apart from others; views and results have identities of their own.
    pub fn id(&self) -> TensorId {
        self.0.id
    }

    /// Type of its elements.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// Its shape.
    pub fn shape(&self) -> &Shape {
        self.0.layout.shape()
    }

    /// Its sizes.
    pub fn dims(&self) -> &[usize] {
        self.0.layout.dims()
    }

    /// Size of one dimension.
    pub fn dim(&self, dim: impl Dim) -> Result<usize> {
        Ok(self.dims()[dim.at(self.shape())?])
    }

    /// Steps in the storage along each dimension.
    pub fn stride(&self) -> &[usize] {
        self.0.layout.stride()
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.0.layout
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims().len()
    }

    /// Number of elements.
    pub fn elem_count(&self) -> usize {
        self.shape().elem_count()
    }

    /// The size of a vector. Errors at another rank.
    pub fn dims1(&self) -> Result<usize> {
        match *self.dims() {
            [a] => Ok(a),
            _ => bail!("a tensor of shape {:?} is no vector", self.dims()),
        }
    }

    /// The sizes of a matrix. Errors at another rank.
    pub fn dims2(&self) -> Result<(usize, usize)> {
        self.shape().dims2()
    }

    /// Three sizes. Errors at another rank.
    pub fn dims3(&self) -> Result<(usize, usize, usize)> {
        match *self.dims() {
            [a, b, c] => Ok((a, b, c)),
            _ => bail!("a tensor of shape {:?} has not three dimensions", self.dims()),
        }
    }

    /// Four sizes. Errors at another rank.
    pub fn dims4(&self) -> Result<(usize, usize, usize, usize)> {
        match *self.dims() {
            [a, b, c, d] => Ok((a, b, c, d)),
            _ => bail!("a tensor of shape {:?} has not four dimensions", self.dims()),
        }
    }

    /// Whether its elements lie one after another.
    pub fn is_contiguous(&self) -> bool {
        self.0.layout.is_contiguous()
    }

    /// Whether it is a variable.
    pub fn is_variable(&self) -> bool {
        self.0.variable
    }

    /// Whether a gradient may be asked for through it.
    pub fn track_op(&self) -> bool {
        self.0.variable || self.0.node.is_some()
    }

    /// The same numbers without their history.
    pub fn detach(&self) -> Tensor {
        if self.track_op() { self.view(self.0.layout.clone(), None) } else { self.clone() }
    }

    /// Its elements in order. Errors on another type.
    pub(crate) fn values<T: WithDType>(&self) -> Result<Vec<T>> {
        let (storage, layout) = self.storage_and_layout();
        Ok(gathered(storage.as_slice::<T>()?, layout))
    }

    /// The elements of a vector. Errors on another type or rank.
    pub fn to_vec1<T: WithDType>(&self) -> Result<Vec<T>> {
        self.dims1()?;
        self.values()
    }

    /// The rows of a matrix. Errors on another type or rank.
    pub fn to_vec2<T: WithDType>(&self) -> Result<Vec<Vec<T>>> {
        let (n, m) = self.dims2()?;
        let all = self.values::<T>()?;
        Ok((0..n).map(|i| all[i * m..(i + 1) * m].to_vec()).collect())
    }

    /// The matrices of a tensor of three dimensions. Errors on another type or rank.
    pub fn to_vec3<T: WithDType>(&self) -> Result<Vec<Vec<Vec<T>>>> {
        let (n, ..) = self.dims3()?;
        (0..n).map(|i| self.get(i)?.to_vec2()).collect()
    }

    /// Its one element. Errors on another type, or where there are several dimensions.
    pub fn to_scalar<T: WithDType>(&self) -> Result<T> {
        match (self.rank(), self.values::<T>()?.as_slice()) {
            (0, [v]) => Ok(*v),
            _ => bail!("a tensor of shape {:?} is no single number", self.dims()),
        }
    }

    /// The same elements, one after another.
    pub fn contiguous(&self) -> Result<Tensor> {
        if self.is_contiguous() {
            return Ok(self.clone());
        }
        if let Some(hollow) = Tensor::hollow_of(&[self], self.shape(), self.dtype()) {
            return Ok(hollow);
        }
        let storage = {
            let (storage, layout) = self.storage_and_layout();
            each!(&*storage, v => WithDType::store(gathered(v, layout)))
        };
        let node = Node::of([self], |_, g| Ok(vec![Some(g.clone())]));
        Ok(Tensor::made(storage, self.shape().clone(), node))
    }

    /// The same elements in another type.
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        if let Some(hollow) = Tensor::hollow_of(&[self], self.shape(), dtype) {
            return Ok(hollow);
        }
        let from = self.dtype();
        let storage = {
            let (storage, layout) = self.storage_and_layout();
            match &*storage {
                // The road of half-precision files.
                CpuStorage::BF16(v) if dtype == DType::F32 => {
                    CpuStorage::F32(gathered(v, layout).into_iter().map(half::bf16::to_f32).collect())
                }
                CpuStorage::F16(v) if dtype == DType::F32 => {
                    CpuStorage::F32(gathered(v, layout).into_iter().map(half::f16::to_f32).collect())
                }
                other => each!(other, v => convert(&gathered(v, layout), dtype)),
            }
        };
        let learns = from.is_float() && dtype.is_float();
        let node = if learns { Node::of([self], move |_, g| Ok(vec![Some(g.to_dtype(from)?)])) } else { None };
        Ok(Tensor::made(storage, self.shape().clone(), node))
    }

    /// The same elements in another shape; `()` stands for what is left. Errors when the numbers of elements differ.
    pub fn reshape(&self, shape: impl ShapeWithHole) -> Result<Tensor> {
        let shape = shape.fill(self.elem_count())?;
        if shape.elem_count() != self.elem_count() {
            bail!("a tensor of shape {:?} has no shape {shape:?}", self.dims());
        }
        let own = self.shape().clone();
        let node = Node::of([self], move |_, g| Ok(vec![Some(g.reshape(&own)?)]));
        let flat = if self.is_contiguous() { self.detach() } else { self.detach().contiguous()? };
        let layout = Layout::new(shape.clone(), shape.strides(), flat.layout().start_offset());
        Ok(flat.view(layout, node))
    }

    /// All elements as a vector.
    pub fn flatten_all(&self) -> Result<Tensor> {
        self.reshape(self.elem_count())
    }

    /// Joins the dimensions from `from` to `to`, both included.
    pub fn flatten(&self, from: impl Dim, to: impl Dim) -> Result<Tensor> {
        let (a, b) = (from.at(self.shape())?, to.at(self.shape())?);
        let d = self.dims();
        if a > b {
            bail!("dimensions {a} to {b} of {d:?}");
        }
        let joined = [&d[..a], &[d[a..=b].iter().product()], &d[b + 1..]].concat();
        self.reshape(joined)
    }

    /// Adds a dimension of size one.
    pub fn unsqueeze(&self, dim: impl Dim) -> Result<Tensor> {
        // One more place than there are dimensions.
        let at = dim.at(&Shape::from([self.dims(), &[1]].concat()))?;
        let mut dims = self.dims().to_vec();
        dims.insert(at, 1);
        self.reshape(dims)
    }

    /// Takes away a dimension of size one; another stays.
    pub fn squeeze(&self, dim: impl Dim) -> Result<Tensor> {
        let at = dim.at(self.shape())?;
        if self.dims()[at] != 1 {
            return Ok(self.clone());
        }
        let mut dims = self.dims().to_vec();
        dims.remove(at);
        self.reshape(dims)
    }

    /// Dimensions in another order, as a view. Errors unless each is named once.
    pub fn permute(&self, dims: impl Dims) -> Result<Tensor> {
        let order = dims.all(self.shape())?;
        let mut back = vec![usize::MAX; self.rank()];
        for (to, from) in order.iter().enumerate() {
            back[*from] = to;
        }
        if order.len() != self.rank() || back.contains(&usize::MAX) {
            bail!("{order:?} is no order of the dimensions of {:?}", self.dims());
        }
        let l = self.layout();
        let shape: Vec<usize> = order.iter().map(|d| l.dims()[*d]).collect();
        let stride = order.iter().map(|d| l.stride()[*d]).collect();
        let node = Node::of([self], move |_, g| Ok(vec![Some(g.permute(back.as_slice())?)]));
        Ok(self.view(Layout::new(shape.into(), stride, l.start_offset()), node))
    }

    /// Two dimensions change places, as a view.
    pub fn transpose(&self, a: impl Dim, b: impl Dim) -> Result<Tensor> {
        let mut order: Vec<usize> = (0..self.rank()).collect();
        order.swap(a.at(self.shape())?, b.at(self.shape())?);
        self.permute(order)
    }

    /// The last two dimensions change places, as a view.
    pub fn t(&self) -> Result<Tensor> {
        self.transpose(crate::D::Minus2, crate::D::Minus1)
    }

    /// `len` entries of a dimension from `start`, as a view.
    pub fn narrow(&self, dim: impl Dim, start: usize, len: usize) -> Result<Tensor> {
        let at = dim.at(self.shape())?;
        let size = self.dims()[at];
        if start.checked_add(len).is_none_or(|end| end > size) {
            bail!("entries {start} to {start} + {len} of a dimension of {size}, in {:?}", self.dims());
        }
        if start == 0 && len == size {
            return Ok(self.clone());
        }
        let l = self.layout();
        let mut dims = l.dims().to_vec();
        dims[at] = len;
        let layout = Layout::new(dims.into(), l.stride().to_vec(), l.start_offset() + start * l.stride()[at]);
        let node = Node::of([self], move |_, g| Ok(vec![Some(g.pad_with_zeros(at, start, size - start - len)?)]));
        Ok(self.view(layout, node))
    }

    /// Entry `i` of the first dimension, which goes.
    pub fn get(&self, i: usize) -> Result<Tensor> {
        self.narrow(0, i, 1)?.reshape(&self.dims()[1..])
    }

    /// The tensor at a shape that it broadcasts to, as a view.
    pub fn broadcast_as(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        if shape == *self.shape() {
            return Ok(self.clone());
        }
        if self.shape().broadcast(&shape)? != shape {
            bail!("shape {:?} does not broadcast to {shape:?}", self.dims());
        }
        let l = self.layout();
        let front = shape.rank() - l.dims().len();
        let own = |i: usize| if l.dims()[i] == 1 { 0 } else { l.stride()[i] };
        let stride = (0..shape.rank()).map(|i| i.checked_sub(front).map_or(0, own)).collect();
        let from = self.shape().clone();
        let node = Node::of([self], move |_, g| Ok(vec![Some(g.summed_to(&from)?)]));
        Ok(self.view(Layout::new(shape, stride, l.start_offset()), node))
    }
}

/// Elements of a layout, in order.
pub(crate) fn gathered<T: Copy>(all: &[T], layout: &Layout) -> Vec<T> {
    if let Some((from, to)) = layout.contiguous_offsets() {
        return all[from..to].to_vec();
    }
    let mut out = Vec::with_capacity(layout.shape().elem_count());
    let mut starts = Vec::new();
    let (len, step) = layout.runs(|at| starts.push(at));
    for at in starts {
        match step {
            1 => out.extend_from_slice(&all[at..at + len]),
            0 => out.extend(std::iter::repeat_n(all[at], len)),
            _ => out.extend(all[at..].iter().step_by(step).take(len)),
        }
    }
    out
}
