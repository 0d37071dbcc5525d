//! One file per verb, and what they share.

pub(crate) mod bench;
pub(crate) mod bench_zoo;
pub(crate) mod compress;
pub(crate) mod convert;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod points;
pub(crate) mod run;
pub(crate) mod table;
pub(crate) mod tour;
pub(crate) mod train;
pub(crate) mod write;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use switchformer_data::{image, plain};
use switchformer_infer::Image;
use switchformer_nn::error::visible;

use crate::fail::Fail;
pub(crate) use crate::model::open;
pub(crate) use crate::say::answer as print_json;

/// Prints text to standard output, escaping what a terminal would obey: names and texts come from files. A closed pipe ends
/// the command quietly.
pub(crate) fn print(text: &str) -> Result<(), Fail> {
    print_raw(&visible(text))
}

/// Prints what no file had a part in, or what is escaped by its own rules.
pub(crate) fn print_raw(text: &str) -> Result<(), Fail> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        std::io::ErrorKind::BrokenPipe => Fail::Pipe,
        _ => Fail::Io("standard output".into(), e),
    })
}

/// Standard input, up to a byte more than `max`, so that what is too long is seen to be.
pub(crate) fn standard_input(max: u64) -> Result<Vec<u8>, Fail> {
    let mut bytes = Vec::new();
    let mut most = std::io::stdin().lock().take(max + 1);
    most.read_to_end(&mut bytes).map_err(|e| Fail::Io("standard input".into(), e))?;
    Ok(bytes)
}

/// The texts of a file that has one per line, without empty ones; `-` is standard input.
pub(crate) fn lines(file: &Path) -> Result<Vec<String>, Fail> {
    if file != Path::new("-") {
        return Ok(plain::lines(file)?);
    }
    let text = plain::text_from(standard_input(plain::MAX_FILE_BYTES)?, file)?;
    let all: Vec<String> = text.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned).collect();
    if all.is_empty() { Err(Fail::Input("standard input holds no line of text".into())) } else { Ok(all) }
}

/// Begins the name of an embedded test image: `example:7`.
const EXAMPLE: &str = "example:";

/// Endings of files that are looked for in a folder of images.
const IMAGES: [&str; 11] = ["png", "jpg", "jpeg", "jfif", "webp", "bmp", "gif", "ppm", "pgm", "tif", "tiff"];

/// Image files, the images in folders (by name, folders in them left alone), and embedded examples.
pub(crate) fn images(given: &[PathBuf]) -> Result<Vec<Image>, Fail> {
    let mut all = Vec::new();
    for path in given {
        if let Some(number) = path.to_str().and_then(|p| p.strip_prefix(EXAMPLE)).filter(|_| !path.exists()) {
            all.push(example(number)?);
        } else if path.is_dir() {
            let found = in_folder(path)?;
            if found.is_empty() {
                let kinds = IMAGES.join(", ");
                return Err(Fail::Input(format!("{} is a folder without images ({kinds})", path.display())));
            }
            all.extend(found.iter().map(|file| Image::file(file)));
        } else if !path.exists() && path.to_string_lossy().contains(['*', '?']) {
            return Err(Fail::Input(format!("{}: the shell found no file for this pattern", path.display())));
        } else if !path.exists() {
            return Err(switchformer_nn::Error::io(path, std::io::ErrorKind::NotFound.into()).into());
        } else {
            all.push(Image::file(path));
        }
    }
    Ok(all)
}

fn in_folder(dir: &Path) -> Result<Vec<PathBuf>, Fail> {
    let failed = |e| Fail::from(switchformer_nn::Error::io(dir, e));
    let (mut found, mut others) = (Vec::new(), 0);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let kind = path.extension().and_then(|e| e.to_str()).map(str::to_lowercase);
        if kind.is_some_and(|k| IMAGES.contains(&k.as_str())) && path.is_file() {
            found.push(path);
        } else {
            others += 1;
        }
    }
    if others > 0 && !found.is_empty() {
        let what = "are no images by their names, or folders, and are left out";
        crate::say::note(&format!("{}: {others} of its entries {what}", dir.display()));
    }
    found.sort();
    Ok(found)
}

/// A test image of Fashion-MNIST out of the program itself.
fn example(number: &str) -> Result<Image, Fail> {
    let set = switchformer_data::embedded_fashion()?;
    let i: usize = number.parse().ok().filter(|i| *i < set.len()).ok_or_else(|| {
        Fail::Input(format!("{EXAMPLE}{number}: the embedded images are {EXAMPLE}0 to {EXAMPLE}{}", set.len() - 1))
    })?;
    let pixels = set.image(i).unwrap_or_default().to_vec();
    let picture = switchformer_data::Picture::new(set.width(), set.height(), set.channels(), pixels)?;
    Ok(Image::new(format!("{EXAMPLE}{i}"), image::png(&picture)?))
}
