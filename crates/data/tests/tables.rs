//! Texts in Parquet tables, against what another program wrote; and tables that are damaged. Without the feature `parquet`:
//! that a table is refused.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Scratch, fixture};
use switchformer_data::{Descriptions, plain};

#[cfg(feature = "parquet")]
const ROWS: [&str; 7] = ["one", "", "  two ", "", "thré\nand more", "one", "one"];

fn table(name: &str) -> std::path::PathBuf {
    fixture(&format!("tables/{name}.parquet"))
}

#[test]
#[cfg(feature = "parquet")]
fn rows_are_texts() {
    for name in ["texts", "gzip"] {
        assert_eq!(plain::segments(table(name)).unwrap(), ROWS, "{name}");
        assert_eq!(plain::lines(table(name)).unwrap(), ["one", "  two ", "thré\nand more", "one", "one"]);
        assert_eq!(plain::documents(table(name)).unwrap(), plain::lines(table(name)).unwrap());
    }
    assert_eq!(plain::segments(table("only")).unwrap(), ["t0", "t1", "t2", "t3", "t4", "t5", "t6"]);
    // In a folder with other documents, in the order of names.
    let dir = Scratch::new("tables");
    dir.put("b.parquet", &std::fs::read(table("only")).unwrap());
    dir.put("a.txt", b"first");
    assert_eq!(plain::documents(&dir.0).unwrap()[..2], ["first", "t0"]);
}

#[test]
#[cfg(feature = "parquet")]
fn what_cannot_be_read_says_what_to_do() {
    let says = |name: &str, words: &[&str]| {
        let error = plain::lines(table(name)).unwrap_err();
        let text = error.to_string();
        assert!(error.code() == "file.table" && words.iter().all(|w| text.contains(w)), "{} {text}", error.code());
    };
    says("several", &["(title, other)", "`text`", "several.parquet"]);
    says("none", &["no column of texts"]);
    says("zstd", &["ZSTD", "Snappy"]);
}

#[test]
fn a_table_makes_no_sense_everywhere() {
    assert_eq!(Descriptions::open(table("texts")).unwrap_err().code(), "file.packed");
}

#[test]
#[cfg(not(feature = "parquet"))]
fn a_build_without_tables_says_how_to_read_them() {
    let error = plain::lines(table("texts")).unwrap_err();
    assert!(error.code() == "file.table" && error.to_string().contains("--features parquet"), "{error}");
}

#[test]
#[cfg(unix)]
fn a_pipe_is_refused_and_not_waited_for() {
    let dir = Scratch::new("pipe");
    let pipe = dir.0.join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert_eq!(plain::lines(&pipe).unwrap_err().code(), "file.read");
    assert_eq!(plain::documents(&pipe).unwrap_err().code(), "file.read");
}

#[test]
#[cfg(feature = "parquet")]
fn damaged_tables_are_errors() {
    let dir = Scratch::new("damaged");
    for name in ["texts", "gzip", "only"] {
        let whole = std::fs::read(table(name)).unwrap();
        for cut in (4..whole.len()).step_by(7) {
            assert_eq!(plain::lines(dir.put("cut", &whole[..cut])).unwrap_err().code(), "file.table", "{name} {cut}");
        }
        // A flipped byte may go unseen, but ends in an error or in texts.
        for at in (4..whole.len()).step_by(5) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            let _ = plain::lines(dir.put("flip", &bytes));
        }
    }
}
