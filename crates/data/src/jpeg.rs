//! JPEG as libjpeg-turbo decodes it: the reference reads pictures through it, so the inverse transform, the triangle filters
//! that stretch chroma and the colour tables have to round as it does (decision 102).

use image::metadata::Orientation;
use libjpeg_turbo_rs::{DecodeLimits, Decoder, Image, JpegError, PixelFormat};

use crate::image::{MAX_PIXELS, MAX_SIDE};

/// Most bytes that the decoder may plan for: coefficients, planes and pixels of the largest picture.
const MAX_MEMORY: u64 = 1 << 30;
/// Most scans of a progressive picture; encoders write about ten.
const MAX_SCANS: usize = 128;

/// Why a JPEG was not decoded.
pub(crate) enum Refused {
    /// It ends early.
    Truncated,
    /// Beyond a limit.
    TooLarge,
    /// A variant that is not decoded here.
    Unsupported,
    /// Its data contradict themselves.
    Damaged,
}

impl From<JpegError> for Refused {
    fn from(error: JpegError) -> Self {
        match error {
            JpegError::UnexpectedEof => Refused::Truncated,
            JpegError::LimitExceeded { .. } | JpegError::AllocationFailed { .. } => Refused::TooLarge,
            JpegError::Unsupported(_) => Refused::Unsupported,
            _ => Refused::Damaged,
        }
    }
}

/// Width, height, channels (1 or 3) and bytes, and how EXIF wants them turned.
pub(crate) type Decoded = (usize, usize, usize, Vec<u8>, Orientation);

/// Decodes a JPEG; colours of printers become red, green and blue as Pillow's `convert` makes them.
pub(crate) fn decode(bytes: &[u8]) -> Result<Decoded, Refused> {
    if !complete(bytes) {
        return Err(Refused::Truncated);
    }
    let mut decoder = Decoder::new(bytes)?;
    decoder.set_limits(DecodeLimits {
        max_width: MAX_SIDE,
        max_height: MAX_SIDE,
        max_pixels: MAX_PIXELS,
        max_scans: MAX_SCANS,
        max_memory: Some(MAX_MEMORY),
    });
    let image = decoder.decode_image()?;
    // A broken EXIF block is no reason to refuse a picture whose pixels are sound.
    let orientation = image.exif_orientation().and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms);
    let Image { width, height, pixel_format, data, .. } = image;
    match pixel_format {
        PixelFormat::Grayscale => Ok((width, height, 1, data, orientation)),
        PixelFormat::Rgb => Ok((width, height, 3, data, orientation)),
        PixelFormat::Cmyk => Ok((width, height, 3, rgb_of_inks(&data), orientation)),
        _ => Err(Refused::Unsupported),
    }
}

/// Red, green and blue of inks that are stored inverted, as Adobe writes them and Pillow takes all to be.
fn rgb_of_inks(data: &[u8]) -> Vec<u8> {
    let light = |ink: u8, white: u8| {
        // The product of two bytes over 255, rounded.
        let product = u32::from(255 - ink) * u32::from(white) + 128;
        white - (((product >> 8) + product) >> 8) as u8
    };
    data.as_chunks::<4>().0.iter().flat_map(|&[c, m, y, white]| [c, m, y].map(|ink| light(ink, white))).collect()
}

/// Whether an end marker follows the last scan; a picture that is cut short would come out gray from there on.
fn complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        while bytes.get(at).is_some_and(|&b| b != 0xFF) {
            at += 1;
        }
        while bytes.get(at) == Some(&0xFF) {
            at += 1;
        }
        let Some(&marker) = bytes.get(at) else { return false };
        at += 1;
        match marker {
            // Stuffed zero, restart markers and TEM stand alone; D9 ends the picture.
            0x00 | 0x01 | 0xD0..=0xD8 => continue,
            0xD9 => return true,
            _ => {}
        }
        match bytes.get(at..at + 2) {
            Some(&[a, b]) => at += usize::from(u16::from_be_bytes([a, b])).max(2),
            _ => return false,
        }
    }
}
