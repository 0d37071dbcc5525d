//! Temporary driver.
use switchformer_lab::{recipe::Recipe, train::*};
fn main() {
    let a: Vec<String> = std::env::args().skip(1).collect();
    let r = Recipe::read(std::path::Path::new(&a[0]), &a[2..]).unwrap_or_else(|e| panic!("{e}"));
    let o = TrainOptions { out: a[1].clone().into(), data: None, stop_after: None, quiet: false };
    match run(&r, &o) {
        Ok(r) => println!("{r:?}"),
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(1)
        }
    }
}
