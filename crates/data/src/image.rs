//! Opening pictures with limits that hold before any pixel is decoded.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use switchformer_format::contents;

use crate::error::{Error, Result, read_file};
use crate::jpeg::{self, Refused};

/// Largest file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 64 << 20;
/// Longest side that is decoded, in pixels.
pub const MAX_SIDE: usize = 16_384;
/// Most pixels that are decoded.
pub const MAX_PIXELS: u64 = 64_000_000;
/// Most bytes that a decoder may allocate.
pub const MAX_ALLOC: u64 = 256 << 20;

/// An 8-bit picture, row by row with the channels of a pixel side by side: `[height, width, channels]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    channels: usize,
    data: Vec<u8>,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({} x {} x {})", self.width, self.height, self.channels)
    }
}

impl Picture {
    /// A picture from `data` in `[height, width, channels]` order; fails with `image.shape` unless sides are 1..=16384, channels 1 or 3 and the length fits.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Result<Self> {
        let sides = 1..=MAX_SIDE;
        // The sides are checked first, so the product cannot overflow.
        if !sides.contains(&width)
            || !sides.contains(&height)
            || !matches!(channels, 1 | 3)
            || data.len() != width * height * channels
        {
            return Err(shape_error(width, height, channels, data.len()));
        }
        Ok(Self { width, height, channels, data })
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// 1 (gray) or 3 (red, green, blue).
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The bytes, `[height, width, channels]`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The bytes, `[height, width, channels]`, without a copy.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// One channel, by Pillow's fixed-point luma (its mode "L").
    pub fn to_gray(&self) -> Picture {
        let data = if self.channels == 1 {
            self.data.clone()
        } else {
            self.data
                .chunks_exact(3)
                .map(|p| {
                    let sum = u32::from(p[0]) * 19_595 + u32::from(p[1]) * 38_470 + u32::from(p[2]) * 7_471;
                    ((sum + 0x8000) >> 16) as u8
                })
                .collect()
        };
        Picture { channels: 1, data, ..*self }
    }

    /// Three channels; gray is repeated.
    pub fn to_rgb(&self) -> Picture {
        let data =
            if self.channels == 3 { self.data.clone() } else { self.data.iter().flat_map(|&v| [v, v, v]).collect() };
        Picture { channels: 3, data, ..*self }
    }

    /// Converts to 1 or 3 channels; fails with `image.shape` for any other number.
    pub fn to_channels(&self, channels: usize) -> Result<Picture> {
        match channels {
            1 => Ok(self.to_gray()),
            3 => Ok(self.to_rgb()),
            _ => Err(shape_error(self.width, self.height, channels, self.data.len())),
        }
    }
}

/// A picture as the bytes of a PNG file; fails with `image.shape`.
pub fn png(picture: &Picture) -> Result<Vec<u8>> {
    let kind = if picture.channels == 1 { image::ExtendedColorType::L8 } else { image::ExtendedColorType::Rgb8 };
    let mut out = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut out);
    let (width, height) = (picture.width as u32, picture.height as u32);
    let done = image::ImageEncoder::write_image(encoder, &picture.data, width, height, kind);
    done.map_err(|_| shape_error(picture.width, picture.height, picture.channels, picture.data.len()))?;
    Ok(out)
}

/// Opens a PNG, JPEG, WebP, BMP, PPM, TIFF (first page) or GIF (first frame) file of any extension; fails with `file.*` or `image.*` codes.
///
/// The bytes are those of Pillow's `convert`: alpha is dropped, palettes are looked up, colours keep the high byte of 16 bits
/// (gray of 16 bits is cut at 255), and inks of printers become red, green and blue. An EXIF orientation is applied as
/// transformers' `load_image` does.
pub fn open(path: impl AsRef<Path>) -> Result<Picture> {
    let path = path.as_ref();
    decode(&read(path)?, path)
}

/// Bytes of an image file that [`decode`] takes, as they are; fails with `file.*` codes.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    read_file(path, MAX_FILE_BYTES)
}

/// Decodes a picture in memory as [`open()`] does; `label` stands in for the path in errors (`image.*` codes).
pub fn decode(bytes: &[u8], label: &Path) -> Result<Picture> {
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::too_large(label, MAX_FILE_BYTES));
    }
    // Decoders are fed hostile bytes; a panic in one must not end the program. Nothing outlives the
    // closure but its result, so no broken state can be seen afterwards.
    catch_unwind(AssertUnwindSafe(|| decode_inner(bytes, label)))
        .unwrap_or_else(|_| Err(damaged(label, "the decoder failed")))
}

fn decode_inner(bytes: &[u8], path: &Path) -> Result<Picture> {
    if bytes.is_empty() {
        return Err(truncated(path));
    }
    let format = image::guess_format(bytes).map_err(|_| unsupported(bytes, path))?;
    // Another crate in the build may switch on more decoders; only these are vetted here.
    match format {
        ImageFormat::Png
        | ImageFormat::WebP
        | ImageFormat::Bmp
        | ImageFormat::Gif
        | ImageFormat::Pnm
        | ImageFormat::Tiff => {}
        ImageFormat::Jpeg => return decode_jpeg(bytes, path),
        _ => return Err(unsupported(bytes, path)),
    }

    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_ALLOC);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| map_error(&e, path))?;

    let (width, height) = decoder.dimensions();
    let (w, h) = (width as usize, height as usize);
    let too_large = || too_large(path, &format!("{width} x {height}"));
    if w == 0 || h == 0 {
        return Err(damaged(path, "a side is zero"));
    }
    if w > MAX_SIDE
        || h > MAX_SIDE
        || u64::from(width) * u64::from(height) > MAX_PIXELS
        || decoder.total_bytes() > MAX_ALLOC
    {
        return Err(too_large());
    }
    // A broken EXIF block is no reason to refuse a picture whose pixels are sound.
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut pixels = DynamicImage::from_decoder(decoder).map_err(|e| map_error(&e, path))?;
    pixels.apply_orientation(orientation);

    picture(pixels, path)
}

/// The bytes of decoded pixels, as Pillow's `convert` makes them 8-bit and drops alpha.
fn picture(pixels: DynamicImage, path: &Path) -> Result<Picture> {
    let (w, h) = (pixels.width() as usize, pixels.height() as usize);
    let high = |v: &u16| (v >> 8) as u8;
    let (channels, data) = match pixels {
        DynamicImage::ImageLuma8(b) => (1, b.into_raw()),
        DynamicImage::ImageLumaA8(b) => (1, b.as_raw().chunks_exact(2).map(|p| p[0]).collect()),
        DynamicImage::ImageRgb8(b) => (3, b.into_raw()),
        DynamicImage::ImageRgba8(b) => (3, drop_alpha(b.as_raw())),
        // Pillow holds such a picture as 16-bit numbers, and what is above 255 becomes 255.
        DynamicImage::ImageLuma16(b) => (1, b.as_raw().iter().map(|&v| v.min(255) as u8).collect()),
        DynamicImage::ImageLumaA16(b) => (1, b.as_raw().chunks_exact(2).map(|p| high(&p[0])).collect()),
        DynamicImage::ImageRgb16(b) => (3, b.as_raw().iter().map(high).collect()),
        DynamicImage::ImageRgba16(b) => {
            (3, b.as_raw().chunks_exact(4).flat_map(|p| [high(&p[0]), high(&p[1]), high(&p[2])]).collect())
        }
        _ => return Err(unreadable(path, "unsupported sample type")),
    };
    Picture::new(w, h, channels, data)
}

fn decode_jpeg(bytes: &[u8], path: &Path) -> Result<Picture> {
    let (w, h, channels, data, orientation) = jpeg::decode(bytes).map_err(|refused| match refused {
        Refused::Truncated => truncated(path),
        Refused::TooLarge => too_large(path, "a JPEG beyond the limits"),
        Refused::Unsupported => unreadable(path, "unsupported variant of JPEG"),
        Refused::Damaged => damaged(path, "damaged data"),
    })?;
    let (width, height) = (w as u32, h as u32);
    let pixels = match channels {
        1 => image::GrayImage::from_raw(width, height, data).map(DynamicImage::from),
        _ => image::RgbImage::from_raw(width, height, data).map(DynamicImage::from),
    };
    let mut pixels = pixels.ok_or_else(|| damaged(path, "damaged data"))?;
    pixels.apply_orientation(orientation);
    picture(pixels, path)
}

fn drop_alpha(rgba: &[u8]) -> Vec<u8> {
    rgba.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect()
}

fn shape_error(width: usize, height: usize, channels: usize, len: usize) -> Error {
    let what = format!("a picture of {width} x {height} x {channels} cannot hold {len} bytes");
    Error::input("image.shape", what, "give width*height*channels bytes with 1 or 3 channels")
}

fn truncated(path: &Path) -> Error {
    Error::file(path, "image.truncated", "ends before the picture is complete", "copy or download it again")
}

/// Names a format that is not decoded here, or what the file is in place of a picture.
fn unsupported(bytes: &[u8], path: &Path) -> Error {
    // The brand in the first box of an ISO media file.
    let brand = match bytes {
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => brand.get(..4),
        _ => None,
    };
    let kind = match (brand, bytes) {
        (Some(b"avif" | b"avis"), _) => "AVIF",
        (Some(b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"mif1" | b"msf1"), _) => "HEIC",
        (_, [0xFF, 0x0A, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..]) => "JPEG XL",
        (_, [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..]) => "JPEG 2000",
        (_, [b'8', b'B', b'P', b'S', ..]) => "Photoshop",
        (_, [b'%', b'P', b'D', b'F', ..]) => "PDF",
        _ => return unreadable(path, contents::kind(bytes).unwrap_or("unknown format")),
    };
    let hint = "convert it to PNG or JPEG, for instance with `magick IN out.png`";
    Error::file(path, "image.format", format!("is of the format {kind}, which is not read here"), hint)
}

fn unreadable(path: &Path, kind: &str) -> Error {
    let what = format!("is not a picture that can be read here ({kind})");
    Error::file(path, "image.format", what, "save it as PNG or JPEG")
}

fn damaged(path: &Path, kind: &str) -> Error {
    let hint = "open it in a picture viewer and save it again";
    Error::file(path, "image.decode", format!("cannot be decoded ({kind})"), hint)
}

fn too_large(path: &Path, what: &str) -> Error {
    let hint = format!("at most {MAX_SIDE} pixels a side and {MAX_PIXELS} in all are decoded, so scale it down first");
    Error::file(path, "image.too_large", format!("is too large a picture ({what})"), hint)
}

fn map_error(error: &ImageError, path: &Path) -> Error {
    match error {
        ImageError::Limits(_) => too_large(path, "beyond the memory limit"),
        ImageError::Unsupported(_) => unreadable(path, "unsupported variant of the format"),
        _ if is_eof(error) => truncated(path),
        _ => damaged(path, "damaged data"),
    }
}

/// Whether an unexpected end of data stands anywhere in the chain of causes.
fn is_eof(error: &ImageError) -> bool {
    if let ImageError::IoError(e) = error {
        return e.kind() == std::io::ErrorKind::UnexpectedEof;
    }
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        if e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::UnexpectedEof) {
            return true;
        }
        cause = e.source();
    }
    false
}
