//! `doctor`: this machine, and whether the embedded model works on it.

use serde_json::json;
use switchformer_lab::measure::{answer, wilson};
use switchformer_nn::{Point, machine};

use super::{open, print, print_json};
use crate::fail::Fail;

/// Processor name, where the system tells.
pub(crate) fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default();
    let name = model.trim_start_matches([' ', '\t', ':']).trim();
    if name.is_empty() { std::env::consts::ARCH.to_string() } else { name.to_string() }
}

/// Version of the program, and the commit that it was built from where that is known.
pub(crate) fn version() -> String {
    match option_env!("SWITCHFORMER_COMMIT") {
        Some(commit) if !commit.is_empty() => format!("switchformer {} ({commit})", env!("CARGO_PKG_VERSION")),
        _ => format!("switchformer {}", env!("CARGO_PKG_VERSION")),
    }
}

/// First line of a file, trimmed.
fn line(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()?.lines().next().map(|l| l.trim().to_string())
}

/// Prints what was found; fails when the embedded model does not answer as it must.
pub(crate) fn run(json: bool) -> Result<(), Fail> {
    let opened = open("default", false)?.opened;
    let set = switchformer_data::embedded_fashion()?.head(200);
    let hits = answer(&opened, &Point::new(), &set, 50)?.correct.iter().filter(|c| **c).count();
    let [low, _] = wilson(hits, set.len());
    let well = low > 0.7;
    let limit = |p: &str| line(p).unwrap_or_else(|| "none seen".into());
    let doc = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cpu": cpu(),
        "kernels": format!("{:?}", machine::isa()),
        "threads": machine::threads(),
        "cgroup_cpu": limit("/sys/fs/cgroup/cpu.max"),
        "cgroup_memory": limit("/sys/fs/cgroup/memory.max"),
        "embedded_model": {"params": opened.n_params, "right": hits, "of": set.len(), "well": well},
    });
    if json {
        print_json(&doc)?;
    } else {
        print(&format!(
            "{}\nprocessor        {}\nkernels          {:?}\nthreads          {}\ncgroup cpu       {}\ncgroup memory    {}\nembedded model   {} parameters, {hits} of {} test images right: {}\n",
            version(),
            cpu(),
            machine::isa(),
            machine::threads(),
            limit("/sys/fs/cgroup/cpu.max"),
            limit("/sys/fs/cgroup/memory.max"),
            opened.n_params,
            set.len(),
            if well { "works" } else { "DOES NOT WORK" }
        ))?;
    }
    if well { Ok(()) } else { Err(Fail::Gate("the embedded model does not answer as it must on this machine".into())) }
}
