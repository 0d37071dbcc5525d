//! Opening pictures: formats and modes against Pillow, and hostile files.

#![allow(clippy::unwrap_used)]

mod common;

use base64::Engine;
use common::{MANIFEST, Scratch, bytes, fixture};
use serde_json::Value;
use std::path::Path;
use switchformer_data::Picture;
use switchformer_data::image::{decode, open};

fn code(bytes: &[u8]) -> &'static str {
    decode(bytes, Path::new("test")).unwrap_err().code()
}

fn load(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

#[test]
fn formats_and_modes_agree_with_pillow() {
    for case in MANIFEST["decode"].as_array().unwrap() {
        let name = case["picture"].as_str().unwrap();
        let picture = open(fixture(name)).unwrap();
        let (w, h) = (case["width"].as_u64().unwrap() as usize, case["height"].as_u64().unwrap() as usize);
        assert_eq!((picture.width(), picture.height()), (w, h), "{name}");
        let worst = |got: &Picture, want: &[u8]| {
            assert_eq!(got.data().len(), want.len());
            got.data().iter().zip(want).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
        };
        let rgb = worst(&picture.to_rgb(), bytes(&case["rgb"], w * h * 3));
        let gray = worst(&picture.to_gray(), bytes(&case["gray"], w * h));
        println!("{name}: rgb {rgb}/255, gray {gray}/255");
        // The decoder of lossy WebP rounds differently; the others must agree exactly.
        let allowed = if name == "lossy.webp" { 3 } else { 0 };
        assert!(rgb <= allowed && gray <= allowed, "{name}: {rgb} {gray}");
    }
}

#[test]
fn every_layout_is_read_as_pillow_reads_it() {
    let expected: Value = serde_json::from_slice(&std::fs::read(fixture("pictures/expected.json")).unwrap()).unwrap();
    for (name, want) in expected.as_object().unwrap() {
        let picture = open(fixture(&format!("pictures/{name}"))).unwrap().to_rgb();
        let side = |key: &str| want[key].as_u64().unwrap() as usize;
        assert_eq!((picture.width(), picture.height()), (side("width"), side("height")), "{name}");
        let rgb = base64::engine::general_purpose::STANDARD.decode(want["rgb"].as_str().unwrap()).unwrap();
        let worst = picture.data().iter().zip(&rgb).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        // Another decoder reads the JPEG in a TIFF.
        let allowed = u8::from(name == "jpeg.tif");
        assert!(worst <= allowed && picture.data().len() == rgb.len(), "{name}: {worst}");
    }
    assert!(expected.as_object().unwrap().len() > 15);
}

#[test]
fn what_is_not_read_is_named_and_says_what_to_do() {
    let says = |bytes: &[u8]| {
        let error = decode(bytes, Path::new("x.jpg")).unwrap_err();
        assert_eq!(error.code(), "image.format");
        error.to_string()
    };
    let avif = says(&load("pictures/avif.avif"));
    assert!(avif.contains("format AVIF") && avif.contains("convert it to PNG or JPEG"), "{avif}");
    assert!(says(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic").contains("HEIC"));
    assert!(says(&load("pictures/palette.tif")).contains("unsupported variant"));
    assert!(says(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n").contains("git-lfs pointer"));
    assert!(says(b"<!DOCTYPE html><html>").contains("HTML page"));
}

#[test]
fn exif_orientation_is_applied() {
    let (plain, turned) = (open(fixture("small.jpg")).unwrap(), open(fixture("turned.jpg")).unwrap());
    assert_eq!((turned.width(), turned.height()), (plain.height(), plain.width()));
    // Orientation 6: the stored top left pixel is shown at the top right.
    assert_eq!(turned.data()[(turned.width() - 1) * 3..][..3], plain.data()[..3]);
}

#[test]
fn contents_decide_not_the_extension() {
    let dir = Scratch::new("extension");
    let path = dir.put("picture.jpg", &load("palette.png"));
    assert_eq!(open(path).unwrap(), open(fixture("palette.png")).unwrap());
    let text = dir.put("text.png", b"this is no picture at all, just text");
    assert_eq!(open(&text).unwrap_err().code(), "image.format");
    assert!(open(&text).unwrap_err().to_string().contains("text.png"));
}

#[test]
fn empty_missing_and_odd_files_are_refused() {
    let dir = Scratch::new("odd");
    assert_eq!(open(dir.put("empty.png", b"")).unwrap_err().code(), "image.truncated");
    assert_eq!(open(dir.0.join("missing.png")).unwrap_err().code(), "file.read");
    assert_eq!(open(&dir.0).unwrap_err().code(), "file.read");
    let large = dir.0.join("large.png");
    std::fs::File::create(&large).unwrap().set_len((64 << 20) + 1).unwrap();
    assert_eq!(open(large).unwrap_err().code(), "file.too_large");
}

#[test]
fn every_truncation_is_an_error_and_none_panics() {
    for name in [
        "palette.png",
        "rgba.png",
        "small.jpg",
        "progressive.jpg",
        "pictures/440.jpg",
        "pictures/ycck.jpg",
        "pictures/420-restart.jpg",
        "pictures/plain.ppm",
        "pictures/lzw.tif",
        "pictures/adobe_deflate.tif",
        "lossless.webp",
        "lossy.webp",
        "small.bmp",
        "animated.gif",
    ] {
        let whole = load(name);
        let mut passed = Vec::new();
        for cut in 0..whole.len() {
            match decode(&whole[..cut], Path::new("cut")) {
                // A file may lose trailers or later frames and still be complete; half of one may not.
                Ok(_) => passed.push(cut),
                Err(e) => {
                    let known = ["image.truncated", "image.decode", "image.format", "image.too_large"];
                    assert!(known.contains(&e.code()), "{name} cut at {cut}: {e}");
                }
            }
        }
        if let Some(first) = passed.first() {
            println!("{name} of {} bytes is read from {first} bytes on", whole.len());
            let least = if name == "animated.gif" { whole.len() / 3 } else { whole.len() - 24 };
            assert!(*first >= least, "{name}: {first} of {}", whole.len());
        }
    }
    let png = load("cat.png");
    assert_eq!(code(&png[..png.len() / 2]), "image.truncated");
    let jpg = load("small.jpg");
    assert_eq!(code(&jpg[..jpg.len() / 2]), "image.truncated");
}

#[test]
fn flipped_bytes_never_panic() {
    for name in [
        "palette.png",
        "small.jpg",
        "progressive.jpg",
        "pictures/420-progressive.jpg",
        "pictures/ycck.jpg",
        "lossless.webp",
        "lossy.webp",
        "palette.bmp",
        "animated.gif",
        "pictures/plain.pgm",
        "pictures/lzw.tif",
        "pictures/adobe_deflate.tif",
        "pictures/gray16.tif",
    ] {
        let whole = load(name);
        for at in 0..whole.len().min(1200) {
            for mask in [0x01, 0x80, 0xFF] {
                let mut bytes = whole.clone();
                bytes[at] ^= mask;
                let _ = decode(&bytes, Path::new("flipped"));
            }
        }
    }
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn png_of(width: u32, height: u32) -> Vec<u8> {
    let mut png = load("cat.png");
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let sum = crc(&png[12..29]);
    png[29..33].copy_from_slice(&sum.to_be_bytes());
    png
}

#[test]
fn header_bombs_are_refused_before_decoding() {
    for (w, h) in [(16_385, 1), (1, 16_385), (16_384, 16_384), (8_001, 8_000), (0x7FFF_FFFF, 0x7FFF_FFFF)] {
        assert_eq!(code(&png_of(w, h)), "image.too_large", "{w} x {h}");
    }
    assert!(decode(&png_of(9_000, 9_000), Path::new("b")).unwrap_err().to_string().contains("9000 x 9000"));
    assert_ne!(code(&png_of(0, 5)), "image.too_large");

    let mut bmp = load("small.bmp");
    bmp[18..22].copy_from_slice(&60_000u32.to_le_bytes());
    bmp[22..26].copy_from_slice(&60_000u32.to_le_bytes());
    assert_eq!(code(&bmp), "image.too_large");

    let mut gif = load("animated.gif");
    gif[6..10].copy_from_slice(&[0xFF; 4]);
    assert_eq!(code(&gif), "image.too_large");

    let mut jpg = load("small.jpg");
    let frame = jpg.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    jpg[frame + 5..frame + 9].copy_from_slice(&[0xFF; 4]);
    assert_eq!(code(&jpg), "image.too_large");
}

#[test]
fn the_first_frame_of_an_animation_is_taken() {
    let first = open(fixture("animated.gif")).unwrap();
    assert_eq!(first.to_rgb(), open(fixture("palette.png")).unwrap().to_rgb());
}

#[test]
fn shapes_are_checked() {
    assert!(Picture::new(2, 2, 3, vec![0; 12]).is_ok());
    for (w, h, c, len) in [(0, 2, 1, 0), (2, 2, 2, 8), (2, 2, 3, 11), (usize::MAX, usize::MAX, 3, 1)] {
        assert_eq!(Picture::new(w, h, c, vec![0; len]).unwrap_err().code(), "image.shape");
    }
    let picture = Picture::new(1, 2, 3, vec![255, 0, 0, 1, 2, 3]).unwrap();
    assert_eq!(picture.to_gray().data(), [76, 2]);
    assert_eq!(picture.to_gray().to_rgb().data(), [76, 76, 76, 2, 2, 2]);
    assert_eq!(picture.to_channels(4).unwrap_err().code(), "image.shape");
}
