//! Turning a picture into model input, as transformers' image processors do.

use crate::error::{Error, Result};
use crate::image::{MAX_PIXELS, MAX_SIDE, Picture};
use crate::preprocess_config::{Middle, Preprocessor};
use crate::processors::{Backend, Size};
use crate::resize::{resize, resize_torchvision};

/// Longest output side, in pixels.
const MAX_OUTPUT_SIDE: usize = 4096;

/// Model input of one picture: `[channels, height, width]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    /// 1 or 3.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// The values, channel by channel, row by row.
    pub data: Vec<f32>,
}

impl Preprocessor {
    /// Runs every step on a picture for a model of `channels` (1 or 3): `[h, w, c]` bytes to `[channels, h', w']`; fails with `image.shape`, `preprocessor.channels` or `preprocessor.output`.
    pub fn apply(&self, picture: &Picture, channels: usize) -> Result<Pixels> {
        let normalize = match &self.normalize {
            Some((mean, std)) => Some((fit(mean, channels)?, fit(std, channels)?)),
            None => None,
        };
        // The size is settled first, so that nothing large is made only to be refused.
        let (height, width) = self.resized(picture)?;
        let (out_height, out_width) = self.crop.unwrap_or((height, width));
        if out_height > MAX_OUTPUT_SIDE || out_width > MAX_OUTPUT_SIDE {
            return Err(Error::output(out_width, out_height));
        }

        let mut picture = picture.to_channels(channels)?;
        if let Some((_, filter)) = self.resize {
            picture = match self.backend {
                Backend::Pillow => resize(&picture, width, height, filter)?,
                Backend::Torchvision => resize_torchvision(&picture, width, height, filter)?,
            };
        }
        if self.crop.is_some() {
            picture = center_crop(&picture, out_height, out_width, self.middle)?;
        }

        // A byte has 256 values, so each channel is a table.
        let mut data = Vec::with_capacity(picture.data().len());
        for c in 0..channels {
            let constants = normalize.as_ref().map(|(mean, std)| (mean[c], std[c]));
            let table: Vec<f32> = (0..=255u8).map(|byte| self.value(byte, constants)).collect();
            data.extend(picture.data().iter().skip(c).step_by(channels).map(|&b| table[usize::from(b)]));
        }
        Ok(Pixels { channels, height: out_height, width: out_width, data })
    }

    /// The number of a byte in a channel of this mean and deviation, rounded step by step as the reference's library does.
    fn value(&self, byte: u8, constants: Option<(f32, f32)>) -> f32 {
        let x = f32::from(byte);
        match (self.backend, self.rescale, constants) {
            // Both steps are one, with the constants scaled instead of the pixels.
            (Backend::Torchvision, Some(factor), Some((mean, std))) => {
                let by = (1.0 / factor) as f32;
                (x - mean * by) / (std * by)
            }
            (Backend::Torchvision, Some(factor), None) => x * factor as f32,
            (Backend::Pillow, Some(factor), None) => (f64::from(byte) * factor) as f32,
            (Backend::Pillow, Some(factor), Some((mean, std))) => ((f64::from(byte) * factor) as f32 - mean) / std,
            (_, None, Some((mean, std))) => (x - mean) / std,
            (_, None, None) => x,
        }
    }

    /// The output's height and width when they do not depend on the picture.
    pub fn output_size(&self) -> Option<(usize, usize)> {
        match (self.crop, self.resize) {
            (Some(crop), _) => Some(crop),
            (None, Some((Size::Exact { height, width }, _))) => Some((height, width)),
            _ => None,
        }
    }

    /// Height and width after the resize step.
    fn resized(&self, picture: &Picture) -> Result<(usize, usize)> {
        let (h, w) = (picture.height(), picture.width());
        let (height, width) = match self.resize {
            None => (h, w),
            Some((Size::Exact { height, width }, _)) => (height, width),
            Some((Size::ShortestEdge(edge), _)) => {
                // transformers: int(edge * long / short), a double division rounded down.
                let long = (edge as f64 * h.max(w) as f64 / h.min(w) as f64) as usize;
                if w <= h { (long, edge) } else { (edge, long) }
            }
        };
        if height > MAX_SIDE || width > MAX_SIDE || (height * width) as u64 > MAX_PIXELS {
            return Err(Error::output(width, height));
        }
        Ok((height, width))
    }
}

/// Per-channel constants for `channels` channels; three equal ones also serve a gray model.
fn fit(values: &[f32], channels: usize) -> Result<Vec<f32>> {
    if values.len() == channels {
        return Ok(values.to_vec());
    }
    if channels == 1 && values.iter().all(|&v| v == values[0]) {
        return Ok(vec![values[0]]);
    }
    let found = values.len();
    let what = format!("the picture has {channels} channel(s) but the preprocessor's mean and std are for {found}");
    Err(Error::input("preprocessor.channels", what, "use the configuration that belongs to the model"))
}

/// A centred crop; it pads with zeros where the picture is smaller.
fn center_crop(picture: &Picture, height: usize, width: usize, middle: Middle) -> Result<Picture> {
    let c = picture.channels();
    let (y0, x0) = (start(picture.height(), height, middle), start(picture.width(), width, middle));
    let mut data = vec![0; height * width * c];
    for y in 0..height {
        let from_y = y as isize + y0;
        if from_y < 0 || from_y >= picture.height() as isize {
            continue;
        }
        // The columns that exist in the picture, copied in one piece.
        let first = (-x0).max(0) as usize;
        let last = (picture.width() as isize - x0).clamp(0, width as isize) as usize;
        if first < last {
            let from = (from_y as usize * picture.width() + (first as isize + x0) as usize) * c;
            let len = (last - first) * c;
            data[(y * width + first) * c..][..len].copy_from_slice(&picture.data()[from..from + len]);
        }
    }
    Picture::new(width, height, c, data)
}

/// Where the crop begins in the picture; negative where padding comes first.
fn start(have: usize, want: usize, middle: Middle) -> isize {
    match middle {
        Middle::Down | Middle::Low if have >= want => ((have - want) / 2) as isize,
        Middle::Down => -((want - have).div_ceil(2) as isize),
        Middle::Even if have >= want => {
            let border = have - want;
            // Halves go to the even pixel: 1 -> 0, 3 -> 2, 5 -> 2, 7 -> 4.
            (border / 2 + usize::from(border % 4 == 3)) as isize
        }
        Middle::Low | Middle::Even => -(((want - have) / 2) as isize),
    }
}
