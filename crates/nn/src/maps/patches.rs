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

/// Learned rows in front of the patches of an image (class tokens), and learned positions of all rows.
pub struct PositionEmbed {
    /// `[1, 1, dim]` each.
    front: Vec<Tensor>,
    /// `[1, front + gh * gw, dim]`, for the trained grid.
    table: Tensor,
    grid: Size,
}

impl PositionEmbed {
    /// Loads the rows named `front`, and the table `positions` of a grid of patches.
    pub fn load(w: &Weights, front: &[&str], positions: &str, grid: Size, dim: usize) -> Result<Self> {
        let table = |name: &str, n: usize| w.tensor(name, &[1, n, dim], ParamKind::Table);
        Ok(PositionEmbed {
            front: front.iter().map(|name| table(name, 1)).collect::<Result<_>>()?,
            table: table(positions, front.len() + grid.0 * grid.1)?,
            grid,
        })
    }

    /// Number of rows in front.
    pub fn n_front(&self) -> usize {
        self.front.len()
    }

    /// Patches of `b` images of one size behind the rows in front, with positions, which are resized where the grid is not
    /// the trained one. Shapes: x `[b * gh * gw, dim]` -> `[b * (front + gh * gw), dim]`.
    pub fn forward(&self, x: &Tensor, b: usize, grid: Size) -> Result<Tensor> {
        let (dim, n) = (x.dims2()?.1, grid.0 * grid.1);
        let mut parts = self.front.iter().map(|t| t.broadcast_as((b, 1, dim))).collect::<Result<Vec<_>>>()?;
        parts.push(x.reshape((b, n, dim))?);
        let positions = positions_at(&self.table, self.n_front(), self.grid, grid)?;
        Tensor::cat(&parts, 1)?.broadcast_add(&positions)?.reshape((b * (self.n_front() + n), dim))
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
        Ok(ImageEmbed {
            positions: PositionEmbed::load(w, front, positions, grid, spec.dim)?,
            patches: PatchEmbed::load(w, spec)?,
            channels: spec.channels,
            image,
            patch: spec.patch,
        })
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
    if from == to {
        return Ok(table.clone());
    }
    let flat = table.squeeze(0)?;
    let patches = resize_positions(&flat.narrow(0, front, from.0 * from.1)?.contiguous()?, from, to)?;
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
    if from == to {
        return Ok(table.clone());
    }
    // One axis at a time, four taps per output: a full matrix would take (to * from) values.
    let dim = table.dims2()?.1;
    let rows = resize_axis(&table.reshape((from.0, from.1 * dim))?, to.0)?; // [gh, gw0 * dim]
    let turned = rows.reshape((to.0, from.1, dim))?.transpose(0, 1)?.contiguous()?; // [gw0, gh, dim]
    let both = resize_axis(&turned.reshape((from.1, to.0 * dim))?, to.1)?; // [gw, gh * dim]
    both.reshape((to.1, to.0, dim))?.transpose(0, 1)?.contiguous()?.reshape((to.0 * to.1, dim))
}

/// Bicubic resize (a = -0.75) along the first dimension. Shapes: `[from, rest]` -> `[to, rest]`.
fn resize_axis(x: &Tensor, to: usize) -> Result<Tensor> {
    const A: f64 = -0.75;
    let near = |t: f64| ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0; // |t| <= 1
    let far = |t: f64| ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A; // 1 < |t| < 2
    let from = x.dims2()?.0;
    let scale = from as f64 / to as f64;
    let mut taps: [(Vec<u32>, Vec<f32>); 4] = Default::default();
    for o in 0..to {
        let centre = (o as f64 + 0.5) * scale - 0.5;
        let base = centre.floor();
        let t = centre - base;
        for (k, weight) in [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)].into_iter().enumerate() {
            // Positions outside the grid repeat its edge.
            taps[k].0.push((base as i64 - 1 + k as i64).clamp(0, from as i64 - 1) as u32);
            taps[k].1.push(weight as f32);
        }
    }
    let mut sum: Option<Tensor> = None;
    for (index, weight) in taps {
        let index = Tensor::from_vec(index, to)?;
        let part = ops::gather(x, &index)?.broadcast_mul(&Tensor::from_vec(weight, (to, 1))?)?;
        sum = Some(match sum {
            Some(s) => (s + part)?,
            None => part,
        });
    }
    sum.ok_or_else(|| Error::shape("position_embeddings", "[n, dim]", x.dims()))
}
