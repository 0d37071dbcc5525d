//! Pictures of what a model computes within: maps of its stages and of its attention, as PNG files.

use std::path::Path;

use switchformer_data::Picture;
use switchformer_data::image::png;
use switchformer_nn::store::write_atomic;
use switchformer_nn::{Error, Taps};
use switchformer_tensor::Tensor;
use switchformer_zoo::Opened;

use crate::fail::Fail;

/// Most stages that are looked for.
const STAGES: usize = 8;
/// Shortest long side of a picture, in pixels: small maps are enlarged to it by whole factors.
const SIDE: usize = 224;

/// Listens to every map that a model may expose.
pub(crate) fn listen(opened: &Opened) -> Taps {
    let blocks = opened.model.trunk().n_blocks();
    Taps::named((0..STAGES).map(stage).chain((0..blocks).map(attention)))
}

fn stage(i: usize) -> String {
    format!("stages.{i}")
}

fn attention(i: usize) -> String {
    format!("blocks.{i}.attn.probs")
}

/// A map of numbers `[height, width]`.
struct Map {
    height: usize,
    width: usize,
    values: Vec<f32>,
}

/// Writes the maps of pictures of these sizes in pixels, which have so many `rows` at first, into a folder. Returns the
/// names of the files. A file of attention shows the mean over the heads, then each head.
pub(crate) fn save(
    dir: &Path,
    opened: &Opened,
    taps: &Taps,
    rows: &[usize],
    sizes: &[(usize, usize)],
) -> Result<Vec<String>, Fail> {
    let prefix = opened.model.trunk().prefix_rows().unwrap_or(0);
    let mut pictures = Vec::new();
    for (name, values) in taps.recorded() {
        // Attention within the patches of a picture has more members than there are pictures.
        if values.len() != rows.len() {
            continue;
        }
        for (i, value) in values.iter().enumerate() {
            let maps =
                if name.starts_with("stages.") { lengths(value)? } else { looks(value, rows[i], prefix, sizes[i])? };
            let Some(maps) = maps else { continue };
            let name = name.trim_end_matches(".probs");
            let file = if rows.len() > 1 { format!("{i}.{name}.png") } else { format!("{name}.png") };
            pictures.push((file, strip(&maps)?));
        }
    }
    if pictures.is_empty() {
        return Err(Fail::Usage(format!(
            "--save-maps: {} exposes neither maps of stages nor attention over whole pictures; vit, deit (attention), swin, \
             swinv2, pvt_v2, cswin and smt (stages) do",
            opened.entry.name
        )));
    }
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    // A block that ran twice has its last map.
    for (file, picture) in &pictures {
        write_atomic(&dir.join(file), &png(picture)?)?;
    }
    let mut files: Vec<String> = pictures.into_iter().map(|(file, _)| file).collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// Length of the vector at each place. Shapes: `[h, w, dim]` -> `[h, w]`.
fn lengths(x: &Tensor) -> Result<Option<Vec<Map>>, Fail> {
    let Ok((height, width, _)) = x.dims3() else { return Ok(None) };
    let values = x.sqr()?.sum(2)?.sqrt()?.flatten_all()?.to_vec1()?;
    Ok(Some(vec![Map { height, width, values }]))
}

/// What each patch is looked at: by the first row where there is a class row, else on average. Shapes: `[heads, n, n]` -> maps
/// of all heads' mean and of each head; `None` where rows are missing (tokens were dropped), look elsewhere, or are no grid over the picture.
fn looks(
    probs: &Tensor,
    rows: usize,
    prefix: usize,
    (height, width): (usize, usize),
) -> Result<Option<Vec<Map>>, Fail> {
    let Ok((_, n, keys)) = probs.dims3() else { return Ok(None) };
    // A class row stands in front of all rows of the picture; a map of a later stage has fewer rows.
    if n != keys || (prefix > 0 && n != rows) {
        return Ok(None);
    }
    let patches = n.saturating_sub(prefix);
    let rows = (patches as f64 * height as f64 / width as f64).sqrt().round() as usize;
    if rows == 0 || !patches.is_multiple_of(rows) || patches / rows * height != rows * width {
        return Ok(None);
    }
    let by = if prefix > 0 { probs.narrow(1, 0, 1)?.squeeze(1)? } else { probs.mean(1)? };
    let heads: Vec<Vec<f32>> = by.narrow(1, prefix, patches)?.to_vec2()?;
    let mean = (0..patches).map(|i| heads.iter().map(|h| h[i]).sum::<f32>() / heads.len() as f32).collect();
    let map = |values| Map { height: rows, width: patches / rows, values };
    Ok(Some(std::iter::once(mean).chain(heads).map(map).collect()))
}

/// Maps side by side, each from black (its smallest value) to white, one gray column between two.
fn strip(maps: &[Map]) -> Result<Picture, Fail> {
    let (h, w) = maps.first().map_or((1, 1), |m| (m.height, m.width));
    let scale = SIDE.div_ceil(h.max(w)).max(1);
    let (height, width) = (h * scale, maps.len() * (w * scale + 1) - 1);
    let mut data = vec![128u8; height * width];
    for (i, map) in maps.iter().enumerate() {
        let (low, high) =
            map.values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), v| (a.min(*v), b.max(*v)));
        let range = (high - low).max(f32::MIN_POSITIVE);
        for (y, line) in data.chunks_exact_mut(width).enumerate() {
            for (x, pixel) in line[i * (w * scale + 1)..][..w * scale].iter_mut().enumerate() {
                let v = map.values[y / scale * w + x / scale];
                *pixel = (255.0 * (v - low) / range).round() as u8;
            }
        }
    }
    Ok(Picture::new(width, height, 1, data)?)
}
