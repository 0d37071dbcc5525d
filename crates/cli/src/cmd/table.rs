//! Aligned text tables.

use switchformer_nn::error::plain;

/// Lines up columns: the first `left` of them to the left, the others to the right. A cell is one line, cut where it is long.
pub(crate) fn aligned(header: &[&str], rows: &[Vec<String>], left: usize) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(plain).collect()).collect();
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in &rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let mut text = String::new();
        for (i, (cell, w)) in cells.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(w - cell.chars().count());
            let (before, after) = if i < left { ("", pad.as_str()) } else { (pad.as_str(), "") };
            text.push_str(&format!("{before}{cell}{after}  "));
        }
        text.trim_end().to_string() + "\n"
    };
    let head: Vec<String> = header.iter().map(|h| h.to_string()).collect();
    let mut out = line(&head);
    out.push_str(&format!("{}\n", "-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1))));
    rows.iter().for_each(|r| out.push_str(&line(r)));
    out
}

/// A count with thousands separators.
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}
