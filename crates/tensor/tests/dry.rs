//! Tensors without numbers: shapes of every operation, and what a dry run says was read.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use switchformer_tensor::{D, DType, Elsewhere, Result, Tensor, Var, dry};

fn real(dims: &[usize]) -> Tensor {
    let n: usize = dims.iter().product();
    Tensor::from_vec((0..n).map(|i| 0.1 + i as f32).collect(), dims).unwrap()
}

/// An operation on tensors of the given shapes.
type Op = fn(&[Tensor]) -> Result<Tensor>;

/// Every operation that computes, by name.
fn operations() -> Vec<(&'static str, Vec<Vec<usize>>, Op)> {
    let (a, b, v) = (vec![2, 3, 4], vec![2, 3, 4], vec![4]);
    let one = || vec![a.clone()];
    let two = || vec![a.clone(), b.clone()];
    vec![
        ("add", two(), |t| &t[0] + &t[1]),
        ("sub", two(), |t| &t[0] - &t[1]),
        ("mul", two(), |t| &t[0] * &t[1]),
        ("div", two(), |t| &t[0] / &t[1]),
        ("broadcast_add", vec![a.clone(), v.clone()], |t| t[0].broadcast_add(&t[1])),
        ("broadcast_sub", vec![v.clone(), a.clone()], |t| t[0].broadcast_sub(&t[1])),
        ("minimum", two(), |t| t[0].minimum(&t[1])),
        ("maximum", two(), |t| t[0].maximum(&t[1])),
        ("affine", one(), |t| t[0].affine(2.0, 1.0)),
        ("neg", one(), |t| t[0].neg()),
        ("exp", one(), |t| t[0].exp()),
        ("log", one(), |t| t[0].log()),
        ("sqrt", one(), |t| t[0].sqrt()),
        ("sign", one(), |t| t[0].sign()),
        ("floor", one(), |t| t[0].floor()),
        ("clamp", one(), |t| t[0].clamp(-1.0, 1.0)),
        ("gelu_erf", one(), |t| t[0].gelu_erf()),
        ("eq", two(), |t| t[0].eq(&t[1])),
        ("gt", one(), |t| t[0].gt(0.5)),
        ("contiguous", one(), |t| t[0].transpose(0, 2)?.contiguous()),
        ("reshape of a turned view", one(), |t| t[0].t()?.reshape((6, 4))),
        ("to_dtype", one(), |t| t[0].to_dtype(DType::F64)),
        ("cat", two(), |t| Tensor::cat(t, 1)),
        ("stack", two(), |t| Tensor::stack(t, 1)),
        ("pad_with_zeros", one(), |t| t[0].pad_with_zeros(1, 2, 1)),
        ("index_select", one(), |t| t[0].index_select(&Tensor::new(&[1u32, 0, 1])?, 2)),
        ("gather", one(), |t| t[0].gather(&Tensor::zeros((2, 3, 1), DType::U32)?, 2)),
        ("matmul", vec![a.clone(), vec![2, 4, 5]], |t| t[0].matmul(&t[1])),
        ("broadcast_matmul", vec![a.clone(), vec![4, 5]], |t| t[0].broadcast_matmul(&t[1])),
        ("conv2d", vec![vec![1, 2, 5, 6], vec![4, 2, 3, 3]], |t| t[0].conv2d(&t[1], 1, 2, 1)),
        ("sum", one(), |t| t[0].sum((0, 2))),
        ("sum_keepdim", one(), |t| t[0].sum_keepdim(1)),
        ("mean", one(), |t| t[0].mean(D::Minus1)),
        ("max", one(), |t| t[0].max(1)),
        ("log_sum_exp", one(), |t| t[0].log_sum_exp(2)),
        ("argmax", one(), |t| t[0].argmax(1)),
    ]
}

#[test]
fn every_operation_passes_on_shape_and_type() {
    for (name, shapes, op) in operations() {
        let numbers: Vec<Tensor> = shapes.iter().map(|s| real(s)).collect();
        let want = op(&numbers).unwrap();
        assert!(!want.is_hollow(), "{name}");
        // One of them hollow is enough, whichever.
        for at in 0..shapes.len() {
            let mut some = numbers.clone();
            some[at] = Tensor::hollow(shapes[at].as_slice(), DType::F32);
            let got = op(&some).unwrap();
            assert!(got.is_hollow(), "{name} of a hollow tensor {at}");
            assert_eq!((got.dims(), got.dtype()), (want.dims(), want.dtype()), "{name}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_without_numbers_too() {
    let hollow = |dims: &[usize]| Tensor::hollow(dims, DType::F32);
    assert!((hollow(&[2, 3]) + real(&[3, 2])).is_err());
    assert!(hollow(&[2, 3]).matmul(&hollow(&[2, 3])).is_err());
    assert!(Tensor::cat(&[hollow(&[2, 3]), hollow(&[2, 4])], 0).is_err());
    assert!(hollow(&[2, 3]).reshape((4, 2)).is_err());
    assert!(hollow(&[2, 3]).gather(&Tensor::zeros((3, 1), DType::U32).unwrap(), 1).is_err());
}

/// Whoever looks all the same finds zeros, and never less than the shape says.
#[test]
fn there_are_zeros_where_there_are_no_numbers() {
    assert_eq!(Tensor::hollow((2, 2), DType::F32).to_vec2::<f32>().unwrap(), [[0.0; 2]; 2]);
    assert_eq!(Tensor::hollow(3, DType::U32).to_vec1::<u32>().unwrap(), [0; 3]);
}

#[test]
fn a_dry_run_reads_shapes_and_counts_each_weight_once() {
    let (w, other, x) = (real(&[5, 4]).weight(), real(&[4]).weight(), real(&[3, 4]));
    let product = |x: &Tensor| x.matmul(&w.t().unwrap()).unwrap();
    let (y, bytes) = dry::dry(|| {
        let y = product(&x);
        // Read again, also by another view.
        product(&y.matmul(&w).unwrap())
    });
    assert!(y.is_hollow() && y.dims() == [3, 5]);
    assert_eq!(bytes, 4 * 20);
    // Two parts are the whole; what is repeated is read once.
    let parts = || (w.narrow(0, 0, 2).unwrap().exp().unwrap(), w.narrow(0, 2, 3).unwrap().exp().unwrap());
    assert_eq!(dry::dry(parts).1, 4 * 20);
    assert_eq!(dry::dry(|| other.broadcast_as((9, 4)).unwrap().contiguous().unwrap()).1, 4 * 4);
    // What is no weight is computed and counts for nothing.
    let (sum, bytes) = dry::dry(|| (&x + &x).unwrap());
    assert!(!sum.is_hollow() && bytes == 0);
    // Afterwards weights have numbers.
    assert!(!product(&x).is_hollow() && !w.is_hollow());
}

#[test]
fn dry_runs_nest_and_end_with_a_panic() {
    let w = real(&[2, 2]).weight();
    let ((inner, kept), outer) = dry::dry(|| {
        let (_, inner) = dry::dry(|| w.exp().unwrap());
        (inner, dry::wet(|| w.exp().unwrap()))
    });
    assert_eq!((inner, outer), (16, 0));
    assert!(!kept.is_hollow(), "what is kept is made of numbers");
    let end = std::panic::catch_unwind(|| dry::dry(|| -> () { panic!("inside") }));
    assert!(end.is_err() && !dry::is_dry());
    // Variables are weights.
    let v = Var::from_tensor(&real(&[3])).unwrap();
    assert_eq!(dry::dry(|| v.exp().unwrap()).1, 12);
}

struct Counted(AtomicUsize);

impl Elsewhere for Counted {
    fn read(&self) -> Vec<f32> {
        self.0.fetch_add(1, Ordering::Relaxed);
        vec![1.0; 6]
    }
    fn append(&self, _: usize, len: usize, out: &mut Vec<f32>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        out.extend(std::iter::repeat_n(1.0, len));
    }
}

#[test]
fn a_dry_run_leaves_what_lies_in_a_file_there() {
    let source = Arc::new(Counted(AtomicUsize::new(0)));
    let w = Tensor::elsewhere(source.clone(), (3, 2));
    let (rows, bytes) = dry::dry(|| {
        assert!(w.fetched_rows(&[1]).unwrap().is_none());
        w.fetched().index_select(&Tensor::new(&[2u32, 0]).unwrap(), 0).unwrap()
    });
    assert_eq!((rows.dims(), bytes, source.0.load(Ordering::Relaxed)), (&[2, 2][..], 24, 0));
    assert!(w.fetched_rows(&[1]).unwrap().is_some());
}
