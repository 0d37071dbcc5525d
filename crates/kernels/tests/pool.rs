//! The allocator that keeps large blocks: what it gives is the caller's alone, aligned, zeroed where asked, and kept.

#![allow(unsafe_code)]

use switchformer_kernels::pool::Pool;

#[global_allocator]
static POOL: Pool = Pool;

/// One test, as the counts are the process's.
#[test]
fn large_blocks_are_kept_and_given_out_again() {
    // Around the edges: of what the system serves, and of pages.
    let sizes: Vec<usize> = [1usize << 16, 1 << 17, 3 << 20, 5 << 20]
        .into_iter()
        .flat_map(|n| [n - 4, n, n + 4, n + n / 4, n + n / 4 + 4])
        .collect();
    let mut held: Vec<Vec<u32>> = Vec::new();
    for (i, &bytes) in sizes.iter().enumerate() {
        let block = vec![i as u32; bytes / 4];
        // A page, or wherever the system puts it.
        let align = if bytes >= 1 << 16 { 4096 } else { 4 };
        assert_eq!(block.as_ptr() as usize % align, 0, "{bytes} bytes do not start at a multiple of {align}");
        held.push(block);
    }
    for (i, block) in held.iter().enumerate() {
        assert!(block.iter().all(|v| *v == i as u32), "block {i} is shared");
    }
    let before = Pool::count();
    assert!(before.fresh >= 12 && before.live > 16 << 20, "{before:?}");
    drop(held);
    let after = Pool::count();
    assert!(after.live < before.live && after.kept > 0, "{after:?}");
    assert!(after.live + after.kept <= before.live + before.live / 4, "{after:?} of {before:?}");

    // The same sizes again ask the system for nothing, and zeroed blocks are zero though others wrote to them.
    let again: Vec<Vec<u32>> = sizes.iter().map(|b| vec![0u32; b / 4]).collect();
    assert!(again.iter().flatten().all(|v| *v == 0));
    let now = Pool::count();
    assert_eq!(now.fresh, after.fresh);
    assert!(now.reused >= after.reused + 12);
    drop(again);

    // So does a pass whose maps shrink from layer to layer, with sizes never asked for before, within what was at most in
    // use; and blocks given back in any order are whole again.
    for keep in 0..2 {
        let mut maps: Vec<Vec<u8>> = (0..20).map(|i| vec![i; (700 - 31 * usize::from(i)) << 10]).collect();
        for step in [3usize, 2, 5] {
            let mut at = keep;
            maps.retain(|map| {
                assert!(map.iter().all(|v| *v == map[0]));
                at += 1;
                at % step != 0
            });
            maps.push(vec![77; 1 << 20]);
        }
    }
    let end = Pool::count();
    assert_eq!((end.fresh, end.live), (after.fresh, after.live), "{end:?}");

    // Growing keeps the content, across the classes and from small to large.
    let mut grown: Vec<u64> = Vec::new();
    (0..400_000).for_each(|i| grown.push(i));
    assert!(grown.iter().enumerate().all(|(i, v)| *v == i as u64));
    grown.truncate(10);
    grown.shrink_to_fit();
    assert_eq!(grown, (0..10).collect::<Vec<u64>>());
}
