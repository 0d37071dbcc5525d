//! Attention against its reference, and the reference's gradient against differences.
mod common;

use common::{Rng, assert_close, dot, each_isa, numeric_grad};
use switchformer_kernels::{Packed, QkvGrad, Rows, RowsMut, attention, attention_backward, attention_probs, reference};

/// Running sums of lengths.
fn cu(lens: &[u32]) -> Vec<u32> {
    let mut at = 0;
    std::iter::once(0)
        .chain(lens.iter().map(|n| {
            at += n;
            at
        }))
        .collect()
}

/// Segment lengths, heads, head size.
const CASES: [(&[u32], usize, usize); 14] = [
    (&[], 2, 8),
    (&[0], 2, 8),
    (&[0, 0, 3, 0], 1, 8),
    (&[1], 1, 1),
    (&[1, 2, 3], 2, 3),
    (&[7, 8, 9], 3, 16),
    (&[15, 16, 17, 31, 33], 2, 24),
    (&[50, 50, 49], 4, 16),
    (&[63, 64, 65], 1, 32),
    (&[127, 128, 129], 2, 17),
    (&[191, 193], 1, 64),
    (&[257], 1, 65),
    (&[520, 2], 1, 40),
    (&[5, 70], 1, 256),
];

#[test]
fn forward_and_backward_match() {
    each_isa(|isa| {
        for (seed, (lens, heads, head_dim)) in CASES.into_iter().enumerate() {
            let what = format!("{isa:?} {lens:?} x {heads} x {head_dim}");
            let cu = cu(lens);
            let packed = Packed { cu: &cu, heads, head_dim, scale: (head_dim as f32).powf(-0.5) };
            let (total, dim) = (packed.total(), packed.dim());
            let mut rng = Rng::new(seed as u64 + 1);
            let qkv: Vec<f32> = rng.floats(total * 3 * dim).iter().map(|v| v * 3.0).collect();
            let [q, k, v] = Rows::fused_qkv(&qkv, dim);
            let (mut out, mut lse) = (vec![f32::NAN; total * dim], vec![f32::NAN; heads * total]);
            attention(&packed, q, k, v, &mut out, Some(&mut lse));
            let (want, want_lse) = reference::attention(&packed, q, k, v);
            assert_close(&out, &want, 5e-6, &what);
            assert_close(&lse, &want_lse, 5e-6, &what);
            let mut alone = vec![f32::NAN; total * dim];
            attention(&packed, q, k, v, &mut alone, None);
            assert_eq!(alone, out, "{what}");

            let dout = rng.floats(total * dim);
            let want = reference::attention_backward(&packed, q, k, v, &dout);
            let mut grad = vec![f32::NAN; total * 3 * dim];
            attention_backward(&packed, q, k, v, &out, &lse, &dout, QkvGrad::fused(&mut grad, dim));
            let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![f32::NAN; total * dim]);
            let split = QkvGrad::Split {
                dq: RowsMut::packed(&mut dq, dim),
                dk: RowsMut::packed(&mut dk, dim),
                dv: RowsMut::packed(&mut dv, dim),
            };
            attention_backward(&packed, q, k, v, &out, &lse, &dout, split);
            for (i, got) in [&dq, &dk, &dv].into_iter().enumerate() {
                assert_close(got, &want[i], 2e-5, &format!("{what} gradient {i}"));
                for r in 0..total {
                    let fused = &grad[r * 3 * dim + i * dim..][..dim];
                    assert_eq!(fused, &got[r * dim..][..dim], "{what} fused gradient {i}");
                }
            }
            for (segment, &n) in lens.iter().enumerate() {
                let n = n as usize;
                let mut probs = vec![f32::NAN; heads * n * n];
                attention_probs(&packed, q, k, segment, &mut probs);
                assert_close(&probs, &reference::attention_probs(&packed, q, k, segment), 2e-6, &what);
            }
        }
    });
}

#[test]
fn reference_gradient_by_differences() {
    for (lens, heads, head_dim) in [(&[3, 0, 5][..], 2, 3), (&[6][..], 1, 8)] {
        let cu = cu(lens);
        let packed = Packed { cu: &cu, heads, head_dim, scale: 0.7 };
        let (total, dim) = (packed.total(), packed.dim());
        let mut rng = Rng::new(9);
        let qkv = rng.floats(total * 3 * dim);
        let dout = rng.floats(total * dim);
        let [q, k, v] = Rows::fused_qkv(&qkv, dim);
        let want = numeric_grad(&qkv, |qkv| {
            let [q, k, v] = Rows::fused_qkv(qkv, dim);
            dot(&reference::attention(&packed, q, k, v).0, &dout)
        });
        let (mut out, mut lse) = (vec![0.0; total * dim], vec![0.0; heads * total]);
        attention(&packed, q, k, v, &mut out, Some(&mut lse));
        let mut grad = vec![0.0; total * 3 * dim];
        attention_backward(&packed, q, k, v, &out, &lse, &dout, QkvGrad::fused(&mut grad, dim));
        assert_close(&grad, &want, 5e-4, "fast gradient by differences");
        let naive = reference::attention_backward(&packed, q, k, v, &dout);
        for r in 0..total {
            for (i, naive) in naive.iter().enumerate() {
                let at = r * 3 * dim + i * dim;
                assert_close(&naive[r * dim..][..dim], &want[at..at + dim], 5e-4, "naive gradient");
            }
        }
    }
}

#[test]
fn strided_views_and_untouched_gaps() {
    let cu = [0, 4, 9];
    let packed = Packed { cu: &cu, heads: 2, head_dim: 5, scale: 0.5 };
    let mut rng = Rng::new(4);
    let (data, dout) = (rng.floats(1000), rng.floats(90));
    let view = |stride, offset| Rows { data: &data, stride, offset };
    let (q, k, v) = (view(37, 3), view(10, 0), view(41, 11));
    let (mut out, mut lse) = (vec![0.0; 90], vec![0.0; 18]);
    attention(&packed, q, k, v, &mut out, Some(&mut lse));
    assert_close(&out, &reference::attention(&packed, q, k, v).0, 5e-6, "strided");
    let mut grad = vec![7.0; 9 * 40];
    let fused = QkvGrad::Fused { data: &mut grad, stride: 40, offsets: [21, 1, 11] };
    attention_backward(&packed, q, k, v, &out, &lse, &dout, fused);
    let want = reference::attention_backward(&packed, q, k, v, &dout);
    for (r, row) in grad.chunks_exact(40).enumerate() {
        assert_eq!((row[0], &row[31..]), (7.0, &[7.0; 9][..]), "the gaps of row {r}");
        for (want, at) in want.iter().zip([21, 1, 11]) {
            assert_close(&row[at..at + 10], &want[r * 10..][..10], 2e-5, "strided gradient");
        }
    }
}

#[test]
fn extreme_scores_stay_finite() {
    // The first block of keys is as good as forgotten when the second comes, and the other way round.
    for sign in [1.0, -1.0] {
        let n = 200usize;
        let cu = [0, n as u32];
        let packed = Packed { cu: &cu, heads: 1, head_dim: 8, scale: 1.0 };
        let data: Vec<f32> = (0..n * 8).map(|i| sign * (i as f32 / 200.0 - 4.0) * 10.0).collect();
        let r = Rows::packed(&data, 8);
        each_isa(|isa| {
            let (mut out, mut lse) = (vec![0.0; n * 8], vec![0.0; n]);
            attention(&packed, r, r, r, &mut out, Some(&mut lse));
            let (want, _) = reference::attention(&packed, r, r, r);
            assert_close(&out, &want, 1e-3, &format!("{isa:?}"));
            let mut grad = vec![f32::NAN; n * 24];
            attention_backward(&packed, r, r, r, &out, &lse, &out, QkvGrad::fused(&mut grad, 8));
            assert!(grad.iter().all(|g| g.is_finite()), "{isa:?}");
        });
    }
}

#[test]
#[should_panic(expected = "columns overlap")]
fn overlapping_gradients_are_refused() {
    let cu = [0, 1];
    let packed = Packed { cu: &cu, heads: 1, head_dim: 4, scale: 1.0 };
    let x = [0.0; 4];
    let r = Rows::packed(&x, 4);
    let mut grad = [0.0; 12];
    let fused = QkvGrad::Fused { data: &mut grad, stride: 12, offsets: [0, 3, 8] };
    attention_backward(&packed, r, r, r, &x, &[0.0], &x, fused);
}

#[test]
#[should_panic(expected = "cu must not fall")]
fn falling_cu_is_refused() {
    let packed = Packed { cu: &[0, 3, 1], heads: 1, head_dim: 4, scale: 1.0 };
    let r = Rows::packed(&[], 4);
    attention(&packed, r, r, r, &mut [], None);
}
