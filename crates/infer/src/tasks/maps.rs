//! Pictures of what a model computes within: maps of its stages and of its attention, as PNG images.

use std::collections::{BTreeMap, BTreeSet};

use switchformer_data::Picture;
use switchformer_data::image::png;
use switchformer_nn::ops::AttentionMaps;
use switchformer_nn::{Rows, Size, Taps};
use switchformer_tensor::Tensor;
use switchformer_zoo::Opened;

use crate::error::{Misfit, Result};
use crate::request::Image;
use crate::session::Listener;

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
    format!("blocks.{i}.attn.maps")
}

/// A map of numbers `[height, width]`.
struct Map {
    height: usize,
    width: usize,
    values: Vec<f32>,
}

/// The maps of `n` images as PNG, in the order of their names. One of attention shows the mean over the heads, then each
/// head. A note names those left out because tokens are gone. Errors where the model exposes none.
pub(crate) fn pictures(opened: &Opened, taps: &Taps, n: usize, listener: &mut dyn Listener) -> Result<Vec<Image>> {
    let (mut pictures, mut pruned) = (BTreeMap::new(), BTreeSet::new());
    let mut put = |name: &str, rows: &Rows, i: usize, maps: &[Map]| -> Result<()> {
        let file = if n > 1 { format!("{}.{name}.png", rows.members()[i]) } else { format!("{name}.png") };
        // A block that ran twice has its last map.
        pictures.insert(file, png(&strip(maps)?)?);
        Ok(())
    };
    for (name, values) in taps.recorded() {
        let Some(rows) = taps.rows(name).filter(|rows| rows.n() == values.len()) else { continue };
        for (i, value) in values.iter().enumerate() {
            let Some((_, size)) = rows.map(i) else { continue };
            if let Some(maps) = lengths(value, size)? {
                put(name, rows, i, &maps)?;
            }
        }
    }
    for (name, maps) in taps.all_maps() {
        let Some(rows) = taps.rows(name).filter(|rows| rows.n() == maps.n()) else { continue };
        let name = name.trim_end_matches(".maps");
        for i in 0..maps.n() {
            match rows.map(i) {
                Some((prefix, size)) => {
                    if let Some(maps) = looks(maps, i, prefix, size)? {
                        put(name, rows, i, &maps)?;
                    }
                }
                None => drop(pruned.insert(name)),
            }
        }
    }
    if !pruned.is_empty() {
        let names = pruned.into_iter().collect::<Vec<_>>().join(", ");
        listener.note(&format!("no picture of {names}: the tokens that are left there make no whole map"));
    }
    if pictures.is_empty() {
        return Err(Misfit::NoMaps { model: opened.entry.name }.into());
    }
    Ok(pictures.into_iter().map(|(file, bytes)| Image::new(file, bytes)).collect())
}

/// Length of the vector at each place. Shapes: `[h, w, dim]` -> `[h, w]`.
fn lengths(x: &Tensor, size: Size) -> Result<Option<Vec<Map>>> {
    let (height, width) = size;
    if !matches!(x.dims(), [h, w, _] if (*h, *w) == size) {
        return Ok(None);
    }
    let values = x.sqr()?.sum(2)?.sqrt()?.flatten_all()?.to_vec1()?;
    Ok(Some(vec![Map { height, width, values }]))
}

/// How much each patch is attended to: by the first row where rows stand in front of the map (the class token), else on
/// average. Maps of all heads' mean and of each head; `None` where the keys are other rows.
fn looks(maps: &AttentionMaps, segment: usize, prefix: usize, (height, width): Size) -> Result<Option<Vec<Map>>> {
    let (patches, (n, keys)) = (height * width, maps.size(segment));
    if n != keys || n != prefix + patches {
        return Ok(None);
    }
    // One head at a time: a map has as many numbers as pairs of rows.
    let by = |head: usize| -> Result<Vec<f32>> {
        let by = match prefix {
            0 => maps.of(segment, Some(head), 0..n)?.mean(1)?,
            _ => maps.of(segment, Some(head), 0..1)?.squeeze(1)?,
        };
        Ok(by.narrow(1, prefix, patches)?.flatten_all()?.to_vec1()?)
    };
    let heads: Vec<Vec<f32>> = (0..maps.heads()).map(by).collect::<Result<_>>()?;
    let mean = (0..patches).map(|i| heads.iter().map(|h| h[i]).sum::<f32>() / heads.len() as f32).collect();
    let map = |values| Map { height, width, values };
    Ok(Some(std::iter::once(mean).chain(heads).map(map).collect()))
}

/// Maps side by side, each from black (its smallest value) to white, one gray column between two.
fn strip(maps: &[Map]) -> Result<Picture> {
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
