//! Matrix products and, as a reference, convolution.

use switchformer_kernels as kernels;

use crate::graph::Node;
use crate::shape::Shape;
use crate::storage::CpuStorage;
use crate::{Result, Tensor, bail};

/// `a [m, k]` times the transpose of `b [n, k]` in f32, on the kernels.
fn product(m: usize, k: usize, n: usize, a: &[f32], b: &[f32], out: &mut [f32]) {
    kernels::linear(m, k, n, a, b, None, out);
}

impl Tensor {
    /// Matrix products over the last two dimensions; the others are equal. Shapes: `[.., m, k]` and `[.., k, n]` ->
    /// `[.., m, n]`.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        let (a, b) = (self.dims(), other.dims());
        let rank = a.len();
        if rank < 2 || b.len() != rank || a[..rank - 2] != b[..rank - 2] || a[rank - 1] != b[rank - 2] {
            bail!("a product of shapes {a:?} and {b:?}");
        }
        let (m, k, n) = (a[rank - 2], a[rank - 1], b[rank - 1]);
        let each: usize = a[..rank - 2].iter().product();
        let shape = Shape::from([&a[..rank - 2], &[m, n]].concat());
        if let Some(hollow) = Tensor::hollow_of(&[self, other], &shape, self.dtype()) {
            return Ok(hollow);
        }
        // The kernels multiply rows by rows.
        let (x, y) = (self.detach().contiguous()?, other.detach().t()?.contiguous()?);
        let storage = {
            let ((s, l), (t, u)) = (x.storage_and_layout(), y.storage_and_layout());
            let (Some((s0, s1)), Some((t0, t1))) = (l.contiguous_offsets(), u.contiguous_offsets()) else {
                bail!("a product needs its numbers in order")
            };
            match (&*s, &*t) {
                (CpuStorage::F32(s), CpuStorage::F32(t)) => {
                    let (s, t) = (&s[s0..s1], &t[t0..t1]);
                    let mut out = vec![0f32; each * m * n];
                    if k > 0 && m > 0 && n > 0 {
                        for i in 0..each {
                            let (s, t) = (&s[i * m * k..(i + 1) * m * k], &t[i * n * k..(i + 1) * n * k]);
                            product(m, k, n, s, t, &mut out[i * m * n..(i + 1) * m * n]);
                        }
                    }
                    CpuStorage::F32(out)
                }
                (CpuStorage::F64(s), CpuStorage::F64(t)) => {
                    let (s, t) = (&s[s0..s1], &t[t0..t1]);
                    let mut out = Vec::with_capacity(each * m * n);
                    for i in 0..each * m {
                        for j in 0..n {
                            let t = &t[((i / m.max(1)) * n + j) * k..][..k];
                            out.push(s[i * k..(i + 1) * k].iter().zip(t).map(|(a, b)| a * b).sum());
                        }
                    }
                    CpuStorage::F64(out)
                }
                (s, t) => bail!("a product of {:?} and {:?}; give f32 or f64", s.dtype(), t.dtype()),
            }
        };
        let (x, y, learns) = (self.detach(), other.detach(), [self.track_op(), other.track_op()]);
        let node = Node::of([self, other], move |_, g| {
            let dx = if learns[0] { Some(g.matmul(&y.t()?)?) } else { None };
            let dy = if learns[1] { Some(x.t()?.matmul(g)?) } else { None };
            Ok(vec![dx, dy])
        });
        Ok(Tensor::made(storage, shape, node))
    }

    /// [`Tensor::matmul`], the front dimensions of one broadcast to the other's.
    pub fn broadcast_matmul(&self, other: &Tensor) -> Result<Tensor> {
        let (a, b) = (self.dims(), other.dims());
        if a.len() < 2 || b.len() < 2 {
            bail!("a product of shapes {a:?} and {b:?}");
        }
        let (front_a, front_b) = (&a[..a.len() - 2], &b[..b.len() - 2]);
        if front_b.iter().all(|d| *d == 1) && front_b.len() <= front_a.len() {
            // One product of all rows.
            let (m, k) = (a[a.len() - 2], a[a.len() - 1]);
            let rows: usize = front_a.iter().product::<usize>() * m;
            let y = self.reshape((rows, k))?.matmul(&other.reshape(&b[b.len() - 2..])?)?;
            return y.reshape([front_a, &[m, b[b.len() - 1]]].concat());
        }
        let front = Shape::from(front_a).broadcast(&Shape::from(front_b))?;
        let whole = |t: &Tensor, last: &[usize]| t.broadcast_as([front.dims(), last].concat());
        whole(self, &a[a.len() - 2..])?.matmul(&whole(other, &b[b.len() - 2..])?)
    }

    /// Convolution of images, one multiplication after another: the reference of faster ones, without a gradient.
    /// Shapes: `[b, c, h, w]`, kernels `[out, c / groups, kh, kw]` -> `[b, out, oh, ow]`.
    pub fn conv2d(&self, kernels: &Tensor, padding: usize, stride: usize, groups: usize) -> Result<Tensor> {
        let ((b, c, h, w), (out, per, kh, kw)) = (self.dims4()?, kernels.dims4()?);
        if per * groups != c || !out.is_multiple_of(groups) || h + 2 * padding < kh || w + 2 * padding < kw {
            bail!("a convolution of {:?} by {:?} in {groups} groups", self.dims(), kernels.dims());
        }
        if self.track_op() || kernels.track_op() {
            bail!("the reference convolution has no backward pass");
        }
        let (oh, ow) = ((h + 2 * padding - kh) / stride + 1, (w + 2 * padding - kw) / stride + 1);
        if let Some(hollow) = Tensor::hollow_of(&[self, kernels], (b, out, oh, ow), self.dtype()) {
            return Ok(hollow);
        }
        let (x, k) = (self.values::<f32>()?, kernels.values::<f32>()?);
        let inside = |o: usize, t: usize, n: usize| (o * stride + t).checked_sub(padding).filter(|p| *p < n);
        let mut y = Vec::with_capacity(b * out * oh * ow);
        for (i, o) in (0..b).flat_map(|i| (0..out).map(move |o| (i, o))) {
            let first = o / (out / groups) * per;
            for (oy, ox) in (0..oh).flat_map(|oy| (0..ow).map(move |ox| (oy, ox))) {
                let mut sum = 0f64;
                for (ci, ky, kx) in (0..per).flat_map(|ci| (0..kh * kw).map(move |t| (ci, t / kw, t % kw))) {
                    let (Some(py), Some(px)) = (inside(oy, ky, h), inside(ox, kx, w)) else { continue };
                    let a = x[((i * c + first + ci) * h + py) * w + px];
                    sum += f64::from(a) * f64::from(k[((o * per + ci) * kh + ky) * kw + kx]);
                }
                y.push(sum as f32);
            }
        }
        Tensor::from_vec(y, (b, out, oh, ow))
    }
}
