//! Token pruning between blocks: Zero-TPrune, and the baselines it is measured against.
//!
//! Paper: Zero-TPrune, arXiv 2305.17328. After a chosen block the rows of each member are ranked by a walk on the
//! attention graph; near-duplicates of important rows go first, then the least important. Training-free; survivors keep
//! their order and the dropped rows are really gone. `random` and `class-attention` are the usual baselines.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;
use switchformer_nn::ops::AttentionMaps;
use switchformer_nn::staged::Left;
use switchformer_nn::{BlockRule, Ctx, Error, Point, Result, Site, Staged, State};

use super::rank;
use crate::host::Host;
use crate::switch::{Loading, NamedSetting, Switch};

/// How rows are chosen.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Graph walk and similarity.
    ZeroTprune,
    /// Uniform choice by the member's seed.
    Random,
    /// The rows that the class row attends to most.
    ClassAttention,
}

/// One pruning layer.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Steps of the path that have run when this layer acts; each lap of a block is one, in whatever network.
    pub after: usize,
    /// Share of the current rows (prefix not counted) that stays.
    pub keep: f64,
    /// Iterations of the walk; the default 10 is enough unless maps are near-diagonal.
    #[serde(default = "ten")]
    pub rank_iters: usize,
    /// Share of the dropped rows that go for similarity rather than for low rank.
    #[serde(default = "third")]
    pub similar: f64,
    /// Heads whose scores (in units of 1/n) have a variance outside are ignored.
    #[serde(default = "var_range")]
    pub var_range: (f64, f64),
}

fn ten() -> usize {
    10
}
fn third() -> f64 {
    0.3
}
fn var_range() -> (f64, f64) {
    (0.01, 0.7)
}

/// Setting of the axis `tokens`: either `layers`, or one `keep` for the layers in `after`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    method: Method,
    keep: Option<f64>,
    after: Option<Vec<usize>>,
    layers: Option<Vec<Layer>>,
}

/// The axis `tokens`.
pub struct Tokens;

impl Switch for Tokens {
    type Capability = ();
    type Setting = Pruning;

    fn axis(&self) -> &'static str {
        "tokens"
    }
    fn load(&self, from: &Loading) -> Result<Option<()>> {
        Ok(from.model.prefix_rows().map(|_| ()))
    }
    fn values(&self, _: &Host, can: Option<&()>) -> String {
        match can {
            Some(()) => SHORT.into(),
            None => "this model answers per token, so none may be dropped".into(),
        }
    }
    fn resolve(&self, point: &Point, host: &Host, (): &()) -> Result<Option<Pruning>> {
        let Some(setting) = point.axis::<Setting>("tokens")? else { return Ok(None) };
        if host.prefix_rows.is_none() {
            return Err(Error::point("tokens cannot be set on this path", "one of its networks answers per token"));
        }
        let wrong = |what: String| Error::point(what, format!("tokens: {VALUES}"));
        let mut layers = match (setting.layers, setting.keep) {
            (Some(layers), None) if setting.after.is_none() => layers,
            (None, Some(keep)) => {
                let quarter = |i: usize| (host.n_blocks * i).div_ceil(4);
                let after = setting.after.unwrap_or_else(|| (1..4).map(quarter).collect());
                after.into_iter().map(|after| layer(after, keep)).collect()
            }
            _ => return Err(wrong("give either `layers`, or `keep` with an optional `after`".into())),
        };
        if layers.is_empty() {
            return Err(wrong("tokens are dropped after no block; name some in `after`, or leave `tokens` out".into()));
        }
        layers.sort_by_key(|l| l.after);
        if let Some(twice) = layers.windows(2).find(|w| w[0].after == w[1].after) {
            return Err(wrong(format!("two layers act after block {}", twice[0].after)));
        }
        for l in &layers {
            let sane = (1..=host.n_blocks).contains(&l.after)
                && l.keep > 0.0
                && l.keep <= 1.0
                && (0.0..=1.0).contains(&l.similar)
                && l.rank_iters <= 1_000
                && l.var_range.0 <= l.var_range.1;
            if !sane {
                return Err(wrong(format!("layer {} is out of range for {} blocks", json!(l), host.n_blocks)));
            }
        }
        Ok(Some(Pruning { method: setting.method, layers }))
    }
    fn rule(&self, pruning: &Pruning, _: &Host, _: &Arc<()>) -> Option<Box<dyn BlockRule>> {
        Some(Box::new(pruning.clone()))
    }
    fn points(&self, host: &Host, (): &()) -> Vec<NamedSetting> {
        let early: Vec<usize> = [1, 2].into_iter().filter(|a| *a < host.n_blocks).collect();
        let blocks: Vec<String> = early.iter().map(usize::to_string).collect();
        let named = |name: &str, how: &str, method: &str, keep: f64| {
            let after = if early.len() == 1 { "block" } else { "blocks" };
            let about =
                format!("{how} keeps {:.0} % of the tokens after {after} {}", 100.0 * keep, blocks.join(" and "));
            NamedSetting::new(format!("{name}-{keep}"), about, json!({"method": method, "keep": keep, "after": early}))
        };
        vec![
            named("tprune", "Zero-TPrune", "zero-tprune", 0.8),
            named("tprune", "Zero-TPrune", "zero-tprune", 0.6),
            named("class-attn", "the class token's attention", "class-attention", 0.6),
            named("random", "chance (a baseline)", "random", 0.6),
        ]
    }
}

/// The values of the axis.
const SHORT: &str = "{\"method\": zero-tprune | random | class-attention, \"keep\": 0..1, \"after\": [blocks]}";
/// With the long form, which sets every layer.
const VALUES: &str = "{\"method\": zero-tprune | random | class-attention, \"keep\": 0..1, \"after\": [blocks]} or \"layers\": [{after, keep, rank_iters, similar, var_range}]";

/// A layer with the defaults.
fn layer(after: usize, keep: f64) -> Layer {
    Layer { after, keep, rank_iters: ten(), similar: third(), var_range: var_range() }
}

/// A checked setting of the axis: layers in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Pruning {
    method: Method,
    layers: Vec<Layer>,
}

impl Pruning {
    fn layer(&self, site: Site) -> Option<&Layer> {
        self.layers.iter().find(|l| l.after == site.step + 1 && l.keep < 1.0)
    }
}

/// Rows that stay out of `patches`: rounded half up, at least one.
fn kept_count(keep: f64, patches: usize) -> usize {
    ((keep * patches as f64 + 0.5).floor() as usize).clamp(patches.min(1), patches)
}

impl BlockRule for Pruning {
    fn wants(&self, site: Site) -> &[&'static str] {
        match (self.layer(site), self.method) {
            (None, _) | (_, Method::Random) => &[],
            (_, Method::ClassAttention) => &["attn.maps"],
            (_, Method::ZeroTprune) => &["attn.maps", "attn.k"],
        }
    }

    fn after(&self, cx: &mut Ctx, model: &dyn Staged, site: Site, state: State, _: &mut Left) -> Result<State> {
        let Some(layer) = self.layer(site) else { return Ok(state) };
        let prefix = model.prefix_rows().unwrap_or(0);
        let at = site.to_string();
        let mut kept = Vec::with_capacity(state.rows.n());
        for segment in 0..state.rows.n() {
            let n = state.rows.len(segment);
            let patches: Vec<usize> = (prefix.min(n)..n).collect();
            let k = kept_count(layer.keep, patches.len());
            let chosen = match self.method {
                // A forecast knows how many stay, not which.
                _ if state.x.is_hollow() => patches[..k].to_vec(),
                Method::Random => {
                    let mut stream = cx.rng_of(state.rows.members()[segment], &format!("{at}.tokens"));
                    let draws: Vec<u64> = patches.iter().map(|_| stream.next_u64() >> 12).collect();
                    rank::descending(&patches, |i| draws[i - prefix] as f64)[..k].to_vec()
                }
                Method::ClassAttention => {
                    let maps = maps_of(cx, &at, segment, n)?;
                    let rows: Vec<f32> = maps.of(segment, None, 0..n.min(1))?.flatten_all()?.to_vec1()?;
                    let score = rank::class_attention(&rows, n);
                    rank::descending(&patches, |i| score[i])[..k].to_vec()
                }
                Method::ZeroTprune => {
                    let maps = maps_of(cx, &at, segment, n)?;
                    let (heads, maps) = (maps.heads(), Heads::of(maps, segment, n)?);
                    let keys = keys(cx, &at, &state, segment)?;
                    let chosen = zero_tprune(layer, &maps, &keys, &patches, k)?;
                    cx.trace.decision_macs += (2 * layer.rank_iters * heads * n * n) as u64;
                    chosen
                }
            };
            let mut offsets: Vec<u32> = (0..prefix.min(n)).chain(chosen).map(|i| i as u32).collect();
            offsets.sort_unstable();
            let range = state.rows.range(segment);
            let original: Vec<u32> =
                offsets.iter().map(|o| state.rows.positions()[range.start + *o as usize]).collect();
            cx.trace.decide(&*at, "tokens", Some(state.rows.members()[segment]), json!({"kept": original}));
            kept.push(offsets);
        }
        state.keep(&kept)
    }
}

/// Steps I', S and I of the paper on one member; returns `k` of `patches`.
fn zero_tprune(layer: &Layer, maps: &Heads, keys: &[f32], patches: &[usize], k: usize) -> Result<Vec<usize>> {
    let first = rank::importance(maps.each(), maps.n, layer.rank_iters, layer.var_range)?;
    let order = rank::descending(patches, |i| first[i]);
    let drop = patches.len() - k;
    let (strong, weak) = order.split_at(order.len().div_ceil(2));
    let similar = ((layer.similar * drop as f64).floor() as usize).min(weak.len());
    let alike = rank::best_match(keys, keys.len() / maps.n, weak, strong);
    let mut most_alike: Vec<(f64, usize)> = alike.into_iter().zip(weak.iter().copied()).collect();
    most_alike.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let gone: Vec<usize> = most_alike[..similar].iter().map(|(_, i)| *i).collect();

    let gone: BTreeSet<usize> = gone.into_iter().collect();
    let alive: Vec<usize> = (0..maps.n).filter(|i| !gone.contains(i)).collect();
    let left = maps.each().map(|map| Ok(Cow::from(rank::restrict(map?.into_owned(), maps.n, &alive))));
    let second = rank::importance(left, alive.len(), layer.rank_iters, layer.var_range)?;
    let candidates: Vec<usize> = (0..alive.len()).filter(|j| patches.binary_search(&alive[*j]).is_ok()).collect();
    Ok(rank::descending(&candidates, |j| second[j])[..k].iter().map(|j| alive[*j]).collect())
}

/// Maps after the block, of which those of a segment are `[heads, n, n]`.
fn maps_of<'a>(cx: &'a Ctx, at: &str, segment: usize, n: usize) -> Result<&'a AttentionMaps> {
    let name = format!("{at}.attn.maps");
    let maps = cx.taps.maps(&name).filter(|maps| segment < maps.n()).ok_or_else(|| no_tap(&name))?;
    let (queries, keys) = maps.size(segment);
    if (queries, keys) != (n, n) {
        return Err(Error::shape(name, format!("[heads, {n}, {n}]"), &[maps.heads(), queries, keys]));
    }
    Ok(maps)
}

/// Most numbers of one member's maps that are kept while it is ranked; larger ones are made anew, head by head.
const KEPT: usize = 1 << 26;

/// The maps of one member, `[n, n]` for each head.
struct Heads<'a> {
    maps: &'a AttentionMaps,
    segment: usize,
    n: usize,
    /// All of them, `[heads, n, n]`, where they are few.
    kept: Option<Vec<f32>>,
}

impl<'a> Heads<'a> {
    fn of(maps: &'a AttentionMaps, segment: usize, n: usize) -> Result<Self> {
        let all = || maps.of(segment, None, 0..n)?.flatten_all()?.to_vec1();
        let kept = (maps.heads() * n * n <= KEPT).then(all).transpose()?;
        Ok(Heads { maps, segment, n, kept })
    }

    fn each(&self) -> impl Iterator<Item = Result<Cow<'_, [f32]>>> {
        let (n, square) = (self.n, self.n * self.n);
        (0..self.maps.heads()).map(move |h| match &self.kept {
            Some(all) => Ok(Cow::from(&all[h * square..(h + 1) * square])),
            None => Ok(Cow::from(self.maps.of(self.segment, Some(h), 0..n)?.flatten_all()?.to_vec1()?)),
        })
    }
}

/// Keys of one segment, `[n, dim]`.
fn keys(cx: &Ctx, at: &str, state: &State, segment: usize) -> Result<Vec<f32>> {
    let name = format!("{at}.attn.k");
    let all = cx.taps.get(&name).and_then(|t| t.first()).ok_or_else(|| no_tap(&name))?;
    let range = state.rows.range(segment);
    all.narrow(0, range.start, range.len())?.flatten_all()?.to_vec1()
}

fn no_tap(name: &str) -> Error {
    Error::point(format!("the model gives no `{name}`"), "token pruning needs blocks with softmax attention")
}
