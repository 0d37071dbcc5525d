//! Prints `docs/settings.md`.

fn main() {
    print!("{}", switchformer_infer::account::page());
}
