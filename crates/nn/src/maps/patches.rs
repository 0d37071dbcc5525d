//! Images as rows: patches, class tokens in front of them, and positions that follow the size of the image.

use switchformer_tensor::Tensor;

use super::joined;
use crate::config::MAX_SIDE;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::input::Input;
use crate::leaf::Linear;
use crate::ops;
use crate::rows::{Rows, Size};
use crate::spec::InputSpec;
use crate::staged::State;
use crate::weights::{ParamKind, PatchSpec, Weights};

/// Patches of an image as rows: the stem of a vision Transformer.
pub struct PatchEmbed {
    proj: Box<dyn Linear>,
    patch: Size,
}

impl PatchEmbed {
    /// Loads the projection that a spec names.
    pub fn load(w: &Weights, spec: &PatchSpec) -> Result<Self> {
        Ok(PatchEmbed { proj: w.patches(spec)?, patch: spec.patch })
    }

    /// Shapes: pixels `[b, c, h, w]` -> `[b * gh * gw, dim]`.
    pub fn forward(&self, cx: &mut Ctx, pixels: &Tensor) -> Result<Tensor> {
        self.proj.forward(cx, &patchify(pixels, self.patch)?)
    }
}

/// How positions follow a grid of another size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resize {
    /// Bicubic, as PyTorch's `interpolate(mode="bicubic", align_corners=False)`.
    #[default]
    Plain,
    /// The same with `antialias=True`.
    Smooth,
}

/// Learned rows in front of the patches of an image (class tokens, registers), and learned positions.
pub struct PositionEmbed {
    /// `[1, 1, dim]` each.
    front: Vec<Tensor>,
    /// `[1, front + gh * gw, dim]`, for the trained grid, where there are positions.
    table: Option<Tensor>,
    /// Rows without positions between those in front and the patches, `[1, n, dim]`.
    registers: Option<Tensor>,
    grid: Size,
    resize: Resize,
    /// Whether the rows in front have positions too.
    front_placed: bool,
}

impl PositionEmbed {
    /// Loads the rows named `front`, and the table `positions` of a grid of patches.
    pub fn load(w: &Weights, front: &[&str], positions: &str, grid: Size, dim: usize) -> Result<Self> {
        let table = |name: &str, n: usize| w.tensor(name, &[1, n, dim], ParamKind::Table);
        let rows = front.iter().map(|name| table(name, 1)).collect::<Result<_>>()?;
        Ok(PositionEmbed::new(rows, Some(table(positions, front.len() + grid.0 * grid.1)?), grid))
    }

    /// The same of given tensors. Shapes: front `[1, 1, dim]` each, table `[1, front + gh * gw, dim]`.
    pub fn new(front: Vec<Tensor>, table: Option<Tensor>, grid: Size) -> Self {
        PositionEmbed { front, table, registers: None, grid, resize: Resize::Plain, front_placed: true }
    }

    /// The same where the rows in front have no positions. Shapes: table `[1, gh * gw, dim]`.
    pub fn of_patches(w: &Weights, front: &[&str], positions: &str, grid: Size, dim: usize) -> Result<Self> {
        let bare = PositionEmbed::load(w, &[], positions, grid, dim)?;
        let rows = front.iter().map(|name| w.tensor(name, &[1, 1, dim], ParamKind::Table)).collect::<Result<_>>()?;
        Ok(PositionEmbed { front: rows, front_placed: false, ..bare })
    }

    /// With rows that have no positions between those in front and the patches. Shapes: registers `[1, n, dim]`.
    pub fn with_registers(self, registers: Option<Tensor>) -> Self {
        PositionEmbed { registers, ..self }
    }

    /// With positions that follow other grids in this way.
    pub fn resized_by(self, resize: Resize) -> Self {
        PositionEmbed { resize, ..self }
    }

    /// Number of rows in front of the patches.
    pub fn n_front(&self) -> usize {
        self.front.len() + self.registers.as_ref().map_or(0, |r| r.dims()[1])
    }

    /// Patches of `b` images of one size behind the rows in front, with positions, which are resized where the grid is not
    /// the trained one. Shapes: x `[b * gh * gw, dim]` -> `[b * (front + gh * gw), dim]`.
    pub fn forward(&self, x: &Tensor, b: usize, grid: Size) -> Result<Tensor> {
        let (dim, n, front) = (x.dims2()?.1, grid.0 * grid.1, self.front.len());
        let placed = |x: Tensor, front: usize| match &self.table {
            Some(table) => x.broadcast_add(&positions_by(table, front, self.grid, grid, self.resize)?),
            None => Ok(x),
        };
        let patches = x.reshape((b, n, dim))?;
        let patches = if self.front_placed { patches } else { placed(patches, 0)? };
        let mut parts = self.front.iter().map(|t| t.broadcast_as((b, 1, dim))).collect::<Result<Vec<_>>>()?;
        parts.push(patches);
        let mut all = Tensor::cat(&parts, 1)?;
        if self.front_placed {
            all = placed(all, front)?;
        }
        if let Some(registers) = &self.registers {
            let between = registers.broadcast_as((b, registers.dims()[1], dim))?;
            all = Tensor::cat(&[&all.narrow(1, 0, front)?, &between, &all.narrow(1, front, n)?], 1)?;
        }
        all.reshape((b * (self.n_front() + n), dim))
    }
}

/// The stem of a plain vision Transformer: patches behind learned rows, with positions.
pub struct ImageEmbed {
    patches: PatchEmbed,
    positions: PositionEmbed,
    channels: usize,
    image: Size,
    patch: Size,
}

impl ImageEmbed {
    /// Loads the projection of patches, the rows named `front` and the table `positions`, for images of the trained size.
    /// Errors where it holds no whole patch.
    pub fn load(w: &Weights, spec: &PatchSpec, image: Size, front: &[&str], positions: &str) -> Result<Self> {
        let grid = patch_grid(image, spec.patch, image)?;
        ImageEmbed::around(w, spec, image, PositionEmbed::load(w, front, positions, grid, spec.dim)?)
    }

    /// Loads the projection of patches for given positions, those of the grid of a trained image.
    pub fn around(w: &Weights, spec: &PatchSpec, image: Size, positions: PositionEmbed) -> Result<Self> {
        let patches = PatchEmbed::load(w, spec)?;
        Ok(ImageEmbed { positions, patches, channels: spec.channels, image, patch: spec.patch })
    }

    /// Number of rows in front of the patches.
    pub fn n_front(&self) -> usize {
        self.positions.n_front()
    }

    /// Rows of images of any sizes that divide into patches, and of the trained size.
    pub fn forward(&self, cx: &mut Ctx, input: &Input) -> Result<State> {
        let mut parts = Vec::new();
        for pixels in input.pixels(self.channels)? {
            let (b, _, h, w) = pixels.dims4()?;
            let grid = patch_grid((h, w), self.patch, self.image)?;
            parts.push(self.positions.forward(&self.patches.forward(cx, pixels)?, b, grid)?);
        }
        Ok(State::new(joined(parts)?, Rows::maps_behind(self.n_front(), &self.grids(input)?)?))
    }

    /// Patches along height and width of every image.
    fn grids(&self, input: &Input) -> Result<Vec<Size>> {
        let sizes = input.image_sizes(self.channels)?.into_iter();
        sizes.map(|size| patch_grid(size, self.patch, self.image)).collect()
    }

    /// What it takes.
    pub fn spec(&self) -> InputSpec {
        InputSpec::images(self.channels, self.image, self.patch)
    }
}

/// Splits images into patches; what is left at the right and at the bottom is not read, as by a convolution of this stride.
/// Shapes: `[b, c, h, w]` -> `[b * gh * gw, c * ph * pw]`, row-major grid.
pub fn patchify(pixels: &Tensor, (ph, pw): (usize, usize)) -> Result<Tensor> {
    let (b, c, h, w) = pixels.dims4().map_err(|_| Error::shape("pixel_values", "[b, c, h, w]", pixels.dims()))?;
    let (gh, gw) = (h / ph, w / pw);
    let mut whole = pixels.clone();
    if (h, w) != (gh * ph, gw * pw) {
        whole = whole.narrow(2, 0, gh * ph)?.narrow(3, 0, gw * pw)?.contiguous()?;
    }
    let split = whole.reshape(&[b, c, gh, ph, gw, pw][..])?.permute([0, 2, 4, 1, 3, 5].as_slice())?;
    split.contiguous()?.reshape((b * gh * gw, c * ph * pw))
}

/// Patches along height and width of an image, whole ones where it is of the `trained` size. Errors when an image of another
/// size does not divide into patches, and where there is none.
pub fn patch_grid((h, w): Size, (ph, pw): Size, trained: Size) -> Result<Size> {
    let divides = (h, w) == trained || (h.is_multiple_of(ph) && w.is_multiple_of(pw));
    if h < ph || w < pw || !divides || h > MAX_SIDE || w > MAX_SIDE {
        return Err(Error::input(
            format!("an image of {h}x{w} does not divide into patches of {ph}x{pw}"),
            format!("resize it, for instance to {}x{}", trained.0, trained.1),
        ));
    }
    Ok((h / ph, w / pw))
}

/// Errors where a side of the trained size, the config field `field`, is no multiple of that of a patch: for models whose
/// reference has no such image.
pub fn patches_divide(field: &str, (h, w): Size, (ph, pw): Size) -> Result<()> {
    if h.is_multiple_of(ph) && w.is_multiple_of(pw) {
        return Ok(());
    }
    Err(Error::config(field, format!("is {h}x{w}, which does not divide into patches of {ph}x{pw}")))
}

/// Position vectors for a grid, resized where it is not the trained one; the first `front` rows have no place.
/// Shapes: table `[1, front + gh0 * gw0, dim]` -> `[1, front + gh * gw, dim]`.
pub fn positions_at(table: &Tensor, front: usize, from: (usize, usize), to: (usize, usize)) -> Result<Tensor> {
    positions_by(table, front, from, to, Resize::Plain)
}

/// The same in either way.
fn positions_by(table: &Tensor, front: usize, from: Size, to: Size, resize: Resize) -> Result<Tensor> {
    if from == to {
        return Ok(table.clone());
    }
    let flat = table.squeeze(0)?;
    let patches = resize_grid(&flat.narrow(0, front, from.0 * from.1)?.contiguous()?, from, to, resize)?;
    if front == 0 {
        return patches.unsqueeze(0);
    }
    Tensor::cat(&[&flat.narrow(0, 0, front)?, &patches], 0)?.unsqueeze(0)
}

/// Resizes images bicubically, as PyTorch's `interpolate(mode="bicubic", align_corners=False)`.
/// Shapes: `[b, c, h, w]` -> `[b, c, to.0, to.1]`.
pub fn resize_images(pixels: &Tensor, to: (usize, usize)) -> Result<Tensor> {
    let (b, c, h, w) = pixels.dims4()?;
    if (h, w) == to {
        return Ok(pixels.clone());
    }
    let places = pixels.permute((2, 3, 0, 1))?.contiguous()?.reshape((h * w, b * c))?;
    let resized = resize_positions(&places, (h, w), to)?.reshape((to.0, to.1, b, c))?;
    resized.permute((2, 3, 0, 1))?.contiguous()
}

/// Resizes a grid of position vectors bicubically, as PyTorch's `interpolate(mode="bicubic", align_corners=False)`.
/// Shapes: `[gh0 * gw0, dim]` -> `[gh * gw, dim]`.
pub fn resize_positions(table: &Tensor, from: (usize, usize), to: (usize, usize)) -> Result<Tensor> {
    resize_grid(table, from, to, Resize::Plain)
}

fn resize_grid(table: &Tensor, from: Size, to: Size, resize: Resize) -> Result<Tensor> {
    if from == to {
        return Ok(table.clone());
    }
    // One axis at a time, a few taps per output: a full matrix would take (to * from) values.
    let dim = table.dims2()?.1;
    let taps = |from: usize, to: usize| match resize {
        Resize::Plain => plain_taps(from, to),
        Resize::Smooth => smooth_taps(from, to),
    };
    let rows = resize_axis(&table.reshape((from.0, from.1 * dim))?, taps(from.0, to.0))?; // [gh, gw0 * dim]
    let turned = rows.reshape((to.0, from.1, dim))?.transpose(0, 1)?.contiguous()?; // [gw0, gh, dim]
    let both = resize_axis(&turned.reshape((from.1, to.0 * dim))?, taps(from.1, to.1))?; // [gw, gh * dim]
    both.reshape((to.1, to.0, dim))?.transpose(0, 1)?.contiguous()?.reshape((to.0 * to.1, dim))
}

/// Which input each output reads as its k-th, and by which factor.
type Taps = Vec<(Vec<u32>, Vec<f32>)>;

/// Cubic convolution at a distance, with this slope at one.
fn cubic(a: f64, t: f64) -> f64 {
    let t = t.abs();
    if t <= 1.0 {
        ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0
    } else if t < 2.0 {
        ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a
    } else {
        0.0
    }
}

/// Four neighbours (a = -0.75); places outside the grid repeat its edge.
fn plain_taps(from: usize, to: usize) -> Taps {
    let scale = from as f64 / to as f64;
    let mut taps: Taps = vec![Default::default(); 4];
    for o in 0..to {
        let centre = (o as f64 + 0.5) * scale - 0.5;
        let base = centre.floor();
        for (k, (index, weight)) in taps.iter_mut().enumerate() {
            index.push((base as i64 - 1 + k as i64).clamp(0, from as i64 - 1) as u32);
            weight.push(cubic(-0.75, centre - base + 1.0 - k as f64) as f32);
        }
    }
    taps
}

/// As many neighbours as a kernel (a = -0.5) reaches that is as wide as the step; places outside the grid do not count.
fn smooth_taps(from: usize, to: usize) -> Taps {
    let scale = from as f64 / to as f64;
    let wide = scale.max(1.0);
    let reach = (4.0 * wide).ceil() as usize + 1;
    let mut taps: Taps = vec![Default::default(); reach];
    for o in 0..to {
        let centre = (o as f64 + 0.5) * scale;
        let first = (centre - 2.0 * wide + 0.5).max(0.0) as usize;
        let end = ((centre + 2.0 * wide + 0.5) as usize).min(from);
        let factor = |k: usize| cubic(-0.5, ((first + k) as f64 - centre + 0.5) / wide);
        let total: f64 = (0..end - first).map(factor).sum();
        for (k, (index, weight)) in taps.iter_mut().enumerate() {
            let inside = first + k < end;
            index.push(if inside { first + k } else { from - 1 } as u32);
            weight.push(if inside { (factor(k) / total) as f32 } else { 0.0 });
        }
    }
    taps
}

/// Sums of inputs along the first dimension. Shapes: `[from, rest]` -> `[to, rest]`.
fn resize_axis(x: &Tensor, taps: Taps) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (index, weight) in taps {
        let to = index.len();
        let part = ops::gather(x, &Tensor::from_vec(index, to)?)?.broadcast_mul(&Tensor::from_vec(weight, (to, 1))?)?;
        sum = Some(match sum {
            Some(s) => (s + part)?,
            None => part,
        });
    }
    sum.ok_or_else(|| Error::shape("position_embeddings", "[n, dim]", x.dims()))
}
