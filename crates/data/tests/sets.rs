//! IDX files, Fashion-MNIST, the built-in set, data order and batches.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::Scratch;
use switchformer_data::batch::{Draw, Norm};
use switchformer_data::idx::{self, Idx};
use switchformer_data::{
    Augment, Dataset, FashionMnist, LABELS, embedded_fashion, order_at, packed_images, permutation,
};

fn here() -> &'static Path {
    Path::new("here")
}

fn code(bytes: &[u8]) -> &'static str {
    idx::from_bytes(bytes, here()).unwrap_err().code()
}

#[test]
fn idx_files_are_read_plain_and_gzipped() {
    let plain = [&[0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3][..], &[1, 2, 3, 4, 5, 6]].concat();
    let want = Idx { dims: vec![2, 3], data: vec![1, 2, 3, 4, 5, 6] };
    assert_eq!(idx::from_bytes(&plain, here()).unwrap(), want);
    let packed = idx::to_gzip(&want.dims, &want.data, here()).unwrap();
    assert_eq!(idx::from_bytes(&packed, here()).unwrap(), want);
    // The name does not matter.
    let dir = Scratch::new("idx");
    assert_eq!(idx::open(dir.put("a.gz", &plain)).unwrap(), want);
    assert_eq!(idx::open(dir.put("b", &packed)).unwrap(), want);
    assert_eq!(idx::open(dir.0.join("c")).unwrap_err().code(), "file.read");
}

#[test]
fn damaged_idx_files_are_refused() {
    assert_eq!(code(b""), "idx.length");
    assert_eq!(code(b"not an idx file"), "idx.magic");
    assert_eq!(code(&[0, 0, 13, 1, 0, 0, 0, 1, 0]), "idx.magic");
    assert_eq!(code(&[0, 0, 8, 0]), "idx.magic");
    assert_eq!(code(&[0, 0, 8, 5]), "idx.magic");
    assert_eq!(code(&[0, 0, 8, 3, 0, 0]), "idx.length");
    assert_eq!(code(&[0, 0, 8, 1, 0, 0, 0, 0]), "idx.shape");
    assert_eq!(code(&[0, 0, 8, 1, 0xFF, 0xFF, 0xFF, 0xFF]), "idx.shape");
    let huge = [&[0, 0, 8, 4][..], &[0xFF; 16]].concat();
    assert_eq!(code(&huge), "idx.shape");
    assert_eq!(code(&[0, 0, 8, 1, 0, 0, 0, 3, 1, 2]), "idx.length");
    assert_eq!(code(&[0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3, 4]), "idx.length");
    let good = idx::to_gzip(&[300], &[7; 300], here()).unwrap();
    for cut in 2..good.len() {
        assert!(matches!(code(&good[..cut]), "idx.length" | "idx.gzip"), "cut at {cut}");
    }
    let mut bad = good.clone();
    let end = bad.len() - 6;
    bad[end] ^= 0xFF;
    assert_eq!(code(&bad), "idx.gzip");
    assert_eq!(idx::to_gzip(&[2, 2], &[0; 3], here()).unwrap_err().code(), "idx.length");
    assert_eq!(idx::to_gzip(&[0], &[], here()).unwrap_err().code(), "idx.shape");
    assert_eq!(idx::to_gzip(&[], &[], here()).unwrap_err().code(), "idx.magic");
}

#[test]
fn a_gzip_bomb_stops_at_the_stated_size() {
    let inner = [&[0, 0, 8, 1, 0, 0, 0, 9][..], &vec![0; 50 << 20]].concat();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, &inner).unwrap();
    assert_eq!(code(&gz.finish().unwrap()), "idx.length");
}

#[test]
fn datasets_are_checked() {
    let images = |n: usize| Idx { dims: vec![n, 2, 3], data: (0..n as u8 * 6).collect() };
    let labels = |l: &[u8]| Idx { dims: vec![l.len()], data: l.to_vec() };
    let data = Dataset::from_idx(images(3), labels(&[0, 9, 5]), here()).unwrap();
    assert_eq!((data.len(), data.height(), data.width(), data.is_empty()), (3, 2, 3, false));
    assert_eq!(data.image(2).unwrap(), [12, 13, 14, 15, 16, 17]);
    assert_eq!(data.image(3), None);
    assert_eq!(data.image(usize::MAX), None);
    assert_eq!(data.head(2).labels(), [0, 9]);
    assert_eq!(data.head(99), data);
    let bad = |i, l| Dataset::from_idx(i, l, here()).unwrap_err().code();
    assert_eq!(bad(images(3), labels(&[0, 1])), "dataset.invalid");
    assert_eq!(bad(images(2), labels(&[0, 10])), "dataset.invalid");
    assert_eq!(bad(labels(&[1]), labels(&[1])), "dataset.invalid");
    assert_eq!(bad(Idx { dims: vec![1, 2, 3], data: vec![0; 5] }, labels(&[1])), "dataset.invalid");
}

#[test]
fn fashion_is_found_or_the_error_says_what_to_do() {
    let dir = Scratch::new("fashion");
    let e = FashionMnist::open(Some(&dir.0)).unwrap_err();
    assert_eq!(e.code(), "fashion.missing");
    for part in ["apt-get install dataset-fashion-mnist", "scripts/fetch-models.sh", dir.0.to_str().unwrap()] {
        assert!(e.to_string().contains(part), "{e}");
    }
    let (images, labels) = packed_images::write(&[0; 28 * 28 * 2], 28, 28, &[3, 4]).unwrap();
    for part in ["train", "t10k"] {
        dir.put(&format!("{part}-images-idx3-ubyte.gz"), &images);
        dir.put(&format!("{part}-labels-idx1-ubyte.gz"), &labels);
    }
    let found = FashionMnist::open(Some(&dir.0)).unwrap();
    assert_eq!(found.dir(), dir.0);
    assert_eq!(found.test().unwrap().labels(), [3, 4]);
    let (small, _) = packed_images::write(&[0; 8], 2, 2, &[3, 4]).unwrap();
    dir.put("train-images-idx3-ubyte.gz", &small);
    assert_eq!(found.train().unwrap_err().code(), "dataset.invalid");
}

#[test]
fn the_installed_fashion_mnist_is_whole() {
    // Where the data is not installed there is nothing to check.
    let Ok(fashion) = FashionMnist::open(None) else { return };
    let (train, test) = (fashion.train().unwrap(), fashion.test().unwrap());
    assert_eq!((train.len(), test.len()), (60_000, 10_000));
    assert_eq!(embedded_fashion().unwrap(), test.head(4000));
    let n = train.images().len() as f64;
    let mean = train.images().iter().map(|&b| f64::from(b)).sum::<f64>() / n / 255.0;
    let square = train.images().iter().map(|&b| (f64::from(b) / 255.0).powi(2)).sum::<f64>() / n;
    assert!((mean - f64::from(Norm::FASHION.mean)).abs() < 1e-6);
    assert!(((square - mean * mean).sqrt() - f64::from(Norm::FASHION.std)).abs() < 1e-6);
}

#[test]
fn the_built_in_images_are_there() {
    let data = embedded_fashion().unwrap();
    assert_eq!((data.len(), data.height(), data.width()), (4000, 28, 28));
    assert_eq!(data.labels()[..10], [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]);
    assert_eq!(LABELS[usize::from(data.labels()[0])], "Ankle boot");
    assert_eq!(packed_images::read(b"", b"").unwrap_err().code(), "idx.length");
}

#[test]
fn permutations_are_bijective_and_differ() {
    for n in [0, 1, 2, 3, 10, 1000, 60_000] {
        let mut order = permutation(7, 3, n);
        order.sort_unstable();
        assert!(order.iter().copied().eq(0..n));
    }
    let base = permutation(7, 3, 1000);
    assert_eq!(base, permutation(7, 3, 1000));
    assert_ne!(base, permutation(7, 4, 1000));
    assert_ne!(base, permutation(8, 3, 1000));
    assert_ne!(permutation(3, 7, 1000), base);
    assert_eq!(order_at(7, 3, 1000, 12), Some(base[12]));
    assert_eq!(order_at(7, 3, 1000, 1000), None);
    // Each sample comes first about as often as any other.
    let mut first = [0; 5];
    (0..5000).for_each(|epoch| first[permutation(1, epoch, 5)[0] as usize] += 1);
    assert!(first.iter().all(|&n| (850..1150).contains(&n)), "{first:?}");
}

#[test]
fn permutations_are_the_same_for_ever() {
    // Runs are resumed by these numbers: they may never change.
    assert_eq!(permutation(0, 0, 12), GOLDEN_0_0);
    assert_eq!(permutation(42, 7, 12), GOLDEN_42_7);
    let sum =
        permutation(42, 1, 60_000).iter().enumerate().fold(0u64, |s, (i, &v)| s.wrapping_add(i as u64 * u64::from(v)));
    assert_eq!(sum, GOLDEN_SUM);
}

const GOLDEN_0_0: [u32; 12] = [5, 0, 10, 3, 1, 11, 9, 7, 6, 2, 8, 4];
const GOLDEN_42_7: [u32; 12] = [10, 9, 1, 8, 6, 11, 4, 3, 7, 2, 0, 5];
const GOLDEN_SUM: u64 = 54_158_641_220_035;
const GOLDEN_BATCH: u64 = 14_346_529_036_030_563_106;

fn ramp(n: usize) -> Dataset {
    let data = (0..n * 28 * 28).map(|i| (i % 251 + 1) as u8).collect();
    Dataset::from_idx(Idx { dims: vec![n, 28, 28], data }, Idx { dims: vec![n], data: vec![1; n] }, here()).unwrap()
}

const UNIT: Norm = Norm { mean: 0.0, std: 1.0 };

fn fill(data: &Dataset, indices: &[u32], norm: Norm, draw: Option<Draw>) -> Vec<f32> {
    let mut out = vec![f32::NAN; indices.len() * 784];
    data.fill_batch(indices, norm, draw.as_ref(), &mut out).unwrap();
    out
}

#[test]
fn batches_are_normalised_and_in_order() {
    let data = ramp(4);
    let out = fill(&data, &[3, 0], Norm { mean: 0.25, std: 0.5 }, None);
    let want: Vec<f32> =
        [3, 0].iter().flat_map(|&i| data.image(i).unwrap()).map(|&b| (f32::from(b) / 255.0 - 0.25) / 0.5).collect();
    assert_eq!(out, want);
    let still = Draw { augment: Augment::default(), seed: 1, epoch: 2 };
    assert_eq!(fill(&data, &[3, 0], UNIT, Some(still)), fill(&data, &[3, 0], UNIT, None));
    assert_eq!(data.labels_at(&[0, 3]).unwrap(), [1, 1]);
    assert_eq!(data.labels_at(&[4]).unwrap_err().code(), "batch.invalid");
}

#[test]
fn augmentation_depends_on_seed_epoch_and_index_alone() {
    let data = ramp(9);
    let augment = Augment { flip: 0.5, pad: 4, erase: 0.5 };
    let draw = |seed, epoch| Some(Draw { augment, seed, epoch });
    let all: Vec<u32> = (0..9).collect();
    let together = fill(&data, &all, UNIT, draw(5, 6));
    for &i in &all {
        assert_eq!(fill(&data, &[i], UNIT, draw(5, 6)), together[i as usize * 784..][..784]);
    }
    assert_ne!(fill(&data, &all, UNIT, draw(5, 7)), together);
    assert_ne!(fill(&data, &all, UNIT, draw(6, 6)), together);
    let sum = together.iter().fold(0u64, |s, v| s.rotate_left(5) ^ u64::from(v.to_bits()));
    assert_eq!(sum, GOLDEN_BATCH);
}

#[test]
fn flips_crops_and_erasing_do_what_they_say() {
    let data = ramp(1);
    let plain = fill(&data, &[0], UNIT, None);
    let one = |augment, epoch| fill(&data, &[0], UNIT, Some(Draw { augment, seed: 1, epoch }));
    let flipped = one(Augment { flip: 1.0, ..Augment::default() }, 0);
    for (row, want) in flipped.chunks(28).zip(plain.chunks(28)) {
        assert!(row.iter().rev().eq(want));
    }
    let mut shifts = std::collections::HashSet::new();
    for epoch in 0..400 {
        let out = one(Augment { pad: 2, ..Augment::default() }, epoch);
        let shift = (-2..=2isize).flat_map(|dy| (-2..=2isize).map(move |dx| (dy, dx))).find(|&(dy, dx)| {
            (0..28isize).all(|y| {
                (0..28isize).all(|x| {
                    let (sy, sx) = (y + dy, x + dx);
                    let inside = (0..28).contains(&sy) && (0..28).contains(&sx);
                    let want = if inside { plain[(sy * 28 + sx) as usize] } else { 0.0 };
                    out[(y * 28 + x) as usize] == want
                })
            })
        });
        shifts.insert(shift.expect("a shift by at most two"));
    }
    assert_eq!(shifts.len(), 25);
    for epoch in 0..200 {
        let out = one(Augment { erase: 1.0, ..Augment::default() }, epoch);
        let gone: Vec<usize> = (0..784).filter(|&i| out[i] != plain[i]).collect();
        assert!(gone.iter().all(|&i| out[i] == 0.0));
        let (top, bottom) = (gone[0] / 28, gone[gone.len() - 1] / 28);
        let left = gone.iter().map(|i| i % 28).min().unwrap();
        let right = gone.iter().map(|i| i % 28).max().unwrap();
        assert_eq!(gone.len(), (bottom - top + 1) * (right - left + 1));
        assert!((10..=300).contains(&gone.len()), "{}", gone.len());
    }
}

#[test]
fn wrong_batches_are_refused() {
    let data = ramp(2);
    let mut out = vec![0.0; 784];
    let mut run = |indices: &[u32], norm, augment: Augment| {
        let draw = Draw { augment, seed: 0, epoch: 0 };
        data.fill_batch(indices, norm, Some(&draw), &mut out).unwrap_err().code()
    };
    let off = Augment::default();
    assert_eq!(run(&[0, 1], UNIT, off), "batch.invalid");
    assert_eq!(run(&[2], UNIT, off), "batch.invalid");
    assert_eq!(run(&[0], Norm { mean: 0.0, std: 0.0 }, off), "batch.invalid");
    assert_eq!(run(&[0], UNIT, Augment { flip: 1.5, ..off }), "batch.invalid");
    assert_eq!(run(&[0], UNIT, Augment { erase: f32::NAN, ..off }), "batch.invalid");
    assert_eq!(run(&[0], UNIT, Augment { pad: 29, ..off }), "batch.invalid");
}
