//! What a file is by its first bytes, where it is not what its name says: a download that went wrong is called by its name.

use std::path::Path;

use crate::error::Error;

/// What to do about a file that stands in another one's place.
const AGAIN: &str = "download the file again, with the hub's own tool (`hf download`)";

/// A kind of file: its name in a sentence, and what to do where it was not expected.
struct Kind(&'static str, &'static str);

/// The start of a file and what it gives away.
const MAGIC: &[(&[u8], Kind)] = &[
    (
        b"version https://git-lfs.github.com/spec/",
        Kind("a git-lfs pointer, not the file itself", "run `git lfs pull` in that clone, or use `hf download`"),
    ),
    (b"\x89PNG\r\n\x1a\n", Kind("a PNG image", AGAIN)),
    (b"\xff\xd8\xff", Kind("a JPEG image", AGAIN)),
    (b"\x1f\x8b", Kind("a gzip archive", "unpack it first")),
    (b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", "unpack it first")),
    (b"\x28\xb5\x2f\xfd", Kind("a zstd archive", "unpack it first")),
    (b"\xfd7zXZ\0", Kind("an xz archive", "unpack it first")),
    (b"GGUF", Kind("a GGUF file", "fetch the checkpoint in safetensors")),
    (b"\x89HDF\r\n\x1a\n", Kind("an HDF5 file (Keras)", "fetch the checkpoint in safetensors")),
    (b"%PDF", Kind("a PDF document", AGAIN)),
    (b"SQLite format 3\0", Kind("an SQLite database", AGAIN)),
];

const PYTORCH: &str = "`switchformer convert FILE OUT.safetensors` reads its tensors";

fn look(bytes: &[u8]) -> Option<Kind> {
    if let Some((_, Kind(name, hint))) = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(Kind(name, hint));
    }
    if bytes.is_empty() {
        return Some(Kind("empty", AGAIN));
    }
    if bytes.starts_with(b"PK\x03\x04") {
        // torch.save writes a zip whose first entry is NAME/data.pkl.
        let torch = bytes[..bytes.len().min(256)].windows(8).any(|w| w == b"data.pkl");
        return Some(match torch {
            true => Kind("a PyTorch checkpoint", PYTORCH),
            false => Kind("a zip archive", "unpack it first"),
        });
    }
    if matches!(bytes, [0x80, 2..=5, ..]) {
        return Some(Kind("a Python pickle, as older PyTorch checkpoints are", PYTORCH));
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Some(Kind("a tar archive", "unpack it first"));
    }
    if matches!(bytes, [_, _, _, _, _, 0, 0, 0, b'{', b'"', ..]) {
        return Some(Kind("a safetensors file", AGAIN));
    }
    let text = bytes.trim_ascii_start();
    let starts = |with: &str| text.get(..with.len()).is_some_and(|t| t.eq_ignore_ascii_case(with.as_bytes()));
    if starts("<!doctype html") || starts("<html") || starts("<head") {
        return Some(Kind("an HTML page (a login or an error was saved in place of the file)", AGAIN));
    }
    if starts("<?xml") {
        return Some(Kind("an XML document (an error was saved in place of the file)", AGAIN));
    }
    None
}

/// What these bytes are the start of, in words that fit `is ...`; `None` for text, JSON and what is not known.
pub fn kind(bytes: &[u8]) -> Option<&'static str> {
    look(bytes).map(|Kind(name, _)| name)
}

/// The error for a file that should be `wanted` and is known to be something else; `None` where nothing is known.
pub fn instead(bytes: &[u8], path: &Path, code: &'static str, wanted: &str) -> Option<Error> {
    let json = matches!(bytes.trim_ascii_start(), [b'{' | b'[', ..]);
    let Kind(name, hint) = match look(bytes) {
        Some(Kind(name, _)) if name == wanted => return None,
        Some(kind) => kind,
        None if json && wanted != "JSON" => Kind("JSON text (an error saved in place of the file?)", AGAIN),
        None => return None,
    };
    Some(Error::format(path, code, format!("is {name}, where {wanted} is expected"), hint))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_called_by_what_it_is() {
        let says = |bytes: &[u8]| kind(bytes).unwrap_or("?");
        assert!(says(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n").starts_with("a git-lfs pointer"));
        assert!(says(b"\n <!DOCTYPE HTML><title>Sign in</title>").starts_with("an HTML page"));
        assert_eq!(says(b"PK\x03\x04........................archive/data.pkl"), "a PyTorch checkpoint");
        assert_eq!(says(b"PK\x03\x04........................photo.png"), "a zip archive");
        assert_eq!(says(b"PK\x03\x04"), "a zip archive");
        assert!(says(b"\x80\x02}q").starts_with("a Python pickle"));
        assert_eq!(says(b"\x40\0\0\0\0\0\0\0{\"a\":"), "a safetensors file");
        assert_eq!(says(b""), "empty");
        assert_eq!(says(b"{\"model_type\": \"bert\"}"), "?");
        let error = instead(b"<html>", Path::new("config.json"), "json.syntax", "JSON").unwrap();
        assert!(error.to_string().starts_with("config.json: is an HTML page"), "{error}");
    }
}
