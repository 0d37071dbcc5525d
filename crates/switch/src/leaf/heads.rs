//! Head pruning: every attention keeps a share of its heads, and nothing is computed for the others.
//!
//! Paper: "Are Sixteen Heads Really Better than One?", arXiv 1905.10650.
//! Idea: most heads of a trained attention can go without retraining. The heads of each attention are put in an order once,
//! and a point says what share of them stays.
//! Order: the checkpoint's own (`"switches": {"heads": {"order": [[2, 0, 1, 3], ..]}}` in `switch.json`: one list for each
//! attention in the order of loading, the most important head first), else by norms of weights.
//! Departs from the paper: it ranks heads of all attentions together, by gradients on data, and prunes step by step. Here each
//! attention keeps the same share, so that the cost is known beforehand; its order can be stored.

use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::{Value, json};
use switchformer_nn::config::MAX_HEADS;
use switchformer_nn::{Error, HeadSite, KeptHeads, Point, Result};

use crate::host::Host;
use crate::plan::typed;
use crate::switch::{Loading, NamedSetting, Switch};

/// The axis `heads`.
pub struct Heads;

/// Attentions whose heads may be left out, and in which order.
pub struct Attentions {
    sites: Vec<HeadSite>,
    /// Heads of each attention, the most important first.
    stored: Option<Vec<Vec<usize>>>,
    /// The order by norms, made at its first use.
    derived: OnceLock<Vec<Vec<usize>>>,
}

/// Setting of the axis.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    keep: f64,
}

/// What a plan stores for the axis.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    order: Vec<Vec<usize>>,
}

/// The values of the axis.
const VALUES: &str = "{\"keep\": 0..1}: the share of the heads of every attention that stays, at least one";

impl Stored {
    /// Errors where a list names a head twice, or one that no attention can have.
    fn check(&self, place: &str) -> Result<()> {
        for (i, list) in self.order.iter().enumerate() {
            let mut sorted = list.clone();
            sorted.sort_unstable();
            if sorted.windows(2).any(|w| w[0] == w[1]) || sorted.last().is_some_and(|h| *h >= MAX_HEADS) {
                let what = format!("must name each head of an attention once, and list {i} is {list:?}");
                return Err(Error::config(format!("{place}.order"), what));
            }
        }
        Ok(())
    }

    /// Errors where the lists are not those of the model's attentions.
    fn fits(&self, sites: &[HeadSite]) -> Result<()> {
        let wrong = |what: String| Err(Error::config("switch.switches.heads.order", what));
        if self.order.len() != sites.len() {
            return wrong(format!("has {} lists, and the model {} attentions", self.order.len(), sites.len()));
        }
        for (list, site) in self.order.iter().zip(sites) {
            let n = site.kv_heads();
            if list.len() != n || list.iter().any(|h| *h >= n) {
                return wrong(format!("must name heads 0 to {} of {}, and says {list:?}", n - 1, site.name()));
            }
        }
        Ok(())
    }
}

impl Attentions {
    /// An attention that cannot be divided.
    fn undivided(&self) -> Option<&HeadSite> {
        self.sites.iter().find(|s| !s.divides())
    }

    /// Heads of each attention, the most important first.
    fn with_order<T>(&self, read: impl FnOnce(&[Vec<usize>]) -> T) -> Result<T> {
        if let Some(order) = self.stored.as_ref().or_else(|| self.derived.get()) {
            return Ok(read(order));
        }
        let order = self.sites.iter().map(by_importance).collect::<Result<Vec<_>>>()?;
        if self.sites.iter().any(HeadSite::learns) {
            return Ok(read(&order));
        }
        Ok(read(self.derived.get_or_init(|| order)))
    }
}

/// Heads by descending norm; the earlier of two that are equal goes first.
fn by_importance(site: &HeadSite) -> Result<Vec<usize>> {
    let importance = site.importance()?;
    let mut order: Vec<usize> = (0..importance.len()).collect();
    order.sort_by(|a, b| importance[*b].total_cmp(&importance[*a]));
    Ok(order)
}

/// Heads of a share.
fn share(site: &HeadSite) -> usize {
    site.kv_heads() / site.shares()
}

/// How many heads of a share stay: rounded half up, at least one.
fn staying(site: &HeadSite, keep: f64) -> usize {
    ((keep * share(site) as f64 + 0.5).floor() as usize).clamp(1, share(site).max(1))
}

/// The heads that stay, ascending; `None` where all do.
fn kept(site: &HeadSite, order: &[usize], keep: f64) -> Option<Vec<usize>> {
    let (share, n) = (share(site), staying(site, keep));
    let of_share = |i: usize| order.iter().copied().filter(move |h| h / share == i).take(n);
    let mut kept: Vec<usize> = (0..site.shares()).flat_map(of_share).collect();
    kept.sort_unstable();
    (n < share).then_some(kept)
}

impl Switch for Heads {
    type Capability = Attentions;
    type Setting = KeptHeads;

    fn axis(&self) -> &'static str {
        "heads"
    }
    fn load(&self, from: &Loading) -> Result<Option<Attentions>> {
        let (sites, stored) = (from.weights.attentions(), from.plan.switch::<Stored>("heads")?);
        if let Some(stored) = &stored {
            stored.fits(&sites)?;
        }
        let stored = stored.map(|s| s.order);
        Ok((!sites.is_empty()).then(|| Attentions { sites, stored, derived: OnceLock::new() }))
    }
    fn available(&self, can: Option<&Attentions>) -> bool {
        can.is_some_and(|c| c.undivided().is_none() && c.sites.iter().any(|s| s.kv_heads() > s.shares()))
    }
    fn values(&self, _: &Host, can: Option<&Attentions>) -> String {
        let Some(can) = can else { return "this model has no attention that offers its heads".into() };
        match can.undivided() {
            Some(site) => format!("the attention of {} cannot be divided", site.name()),
            None if self.available(Some(can)) => VALUES.into(),
            None => "every attention of this model has one head".into(),
        }
    }
    fn resolve(&self, point: &Point, _: &Host, can: &Attentions) -> Result<Option<KeptHeads>> {
        let Some(Setting { keep }) = point.axis("heads")? else { return Ok(None) };
        if !(keep > 0.0 && keep <= 1.0) {
            return Err(Error::point(format!("heads: keep = {keep}"), format!("heads: {VALUES}")));
        }
        if let Some(site) = can.undivided() {
            let what = format!("heads: the attention of {} cannot be divided", site.name());
            return Err(Error::point(what, "leave `heads` out here"));
        }
        if !self.available(Some(can)) {
            return Err(Error::point("heads: every attention of this model has one head", "leave `heads` out here"));
        }
        if can.sites.iter().all(|site| staying(site, keep) == share(site)) {
            return Ok(None);
        }
        let chosen =
            |order: &[Vec<usize>]| can.sites.iter().zip(order).map(|(site, order)| kept(site, order, keep)).collect();
        can.with_order(chosen).map(|all| Some(KeptHeads::new(all)))
    }
    fn points(&self, _: &Host, can: &Attentions) -> Vec<NamedSetting> {
        let named = |keep: f64| {
            let about = format!("{:.0} % of the attention heads", 100.0 * keep);
            NamedSetting::new(format!("heads-{keep}"), about, json!({"keep": keep}))
        };
        if self.available(Some(can)) { vec![named(0.75), named(0.5)] } else { Vec::new() }
    }
    fn adds(&self) -> bool {
        false
    }
    fn change(&self) -> &'static str {
        "repack"
    }
    fn check_plan(&self, stored: &Value, place: &str) -> Result<()> {
        typed::<Stored>(stored, place)?.check(place)
    }
}
