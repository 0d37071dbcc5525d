//! Tensors that stay in the file give the numbers of tensors that were read.

#![allow(clippy::unwrap_used)]

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use switchformer_nn::init::seeded;
use switchformer_nn::names::Names;
use switchformer_nn::weights::LinearSpec;
use switchformer_nn::{Ctx, Folder, Point, Taps, Tensor, Trace, Weights};

const DIM: usize = 160;
const ROWS: usize = 300;

/// The upper half of the bits of each: bf16 without rounding, so that all types hold the same numbers.
fn short(values: Vec<f32>) -> Vec<f32> {
    values.into_iter().map(|v| f32::from_bits(v.to_bits() & 0xffff_0000)).collect()
}

fn bytes(values: &[f32], dtype: Dtype) -> Vec<u8> {
    let one = |v: &f32| match dtype {
        Dtype::BF16 => v.to_le_bytes()[2..].to_vec(),
        Dtype::F64 => f64::from(*v).to_le_bytes().to_vec(),
        _ => v.to_le_bytes().to_vec(),
    };
    values.iter().flat_map(one).collect()
}

fn stored(dir: &std::path::Path, dtype: Dtype) -> Weights {
    let shapes = [("q.weight", [DIM, DIM]), ("k.weight", [DIM, DIM]), ("table.weight", [ROWS, DIM])];
    let all: Vec<Vec<u8>> = shapes.iter().map(|(n, s)| bytes(&short(seeded(n, s)), dtype)).collect();
    let views = shapes.iter().zip(&all).map(|((n, s), b)| (*n, TensorView::new(dtype, s.to_vec(), b).unwrap()));
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
    Weights::open(&Folder::disk(dir).unwrap(), &Names::new(&[], &[])).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn files_of_every_float_type_answer_as_tensors_do() {
    let read = |name: &str, rows: usize| Tensor::from_vec(short(seeded(name, &[rows, DIM])), (rows, DIM)).unwrap();
    let (q, k, table) = (read("q.weight", DIM), read("k.weight", DIM), read("table.weight", ROWS));
    let ids = [299u32, 0, 7, 7];
    let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
    for dtype in [Dtype::F32, Dtype::BF16, Dtype::F64] {
        let dir = tempfile::tempdir().unwrap();
        let w = stored(dir.path(), dtype);
        let spec = LinearSpec { parts: &["q", "k"], fused: None, in_dim: DIM, out_dim: DIM, bias: false };
        let both = w.linear_of(&spec).unwrap();
        let words = w.embedding("table", ROWS, DIM).unwrap();
        w.finish().unwrap();
        let mut cx = Ctx::new(&point, &mut taps, &mut trace);
        let picked = words.forward(&ids).unwrap();
        let want = Tensor::from_vec(ids.to_vec(), 4).unwrap();
        assert_eq!(numbers(&picked), numbers(&table.index_select(&want, 0).unwrap()), "{dtype:?}");
        assert!(words.forward(&[300]).is_err());
        // Twice: from the file, then from panels.
        for _ in 0..2 {
            let y = both.forward(&mut cx, &picked).unwrap();
            let want = picked.matmul(&Tensor::cat(&[&q, &k], 0).unwrap().t().unwrap()).unwrap();
            assert_eq!(y.dims(), [4, 2 * DIM]);
            let far = numbers(&y).iter().zip(numbers(&want)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 1e-5, "{dtype:?}: {far}");
        }
        // A table that somebody looked at is the same table.
        assert_eq!(numbers(words.table()), numbers(&table));
        assert_eq!(numbers(&words.forward(&ids).unwrap()), numbers(&picked));
    }
}
