//! What a loaded checkpoint offers to the switches, and how a point is resolved against it.

use std::collections::BTreeMap;
use std::sync::Arc;

use switchformer_nn::point::Settings;
use switchformer_nn::{BlockRule, Error, Path, Point, Result};

use crate::switch::{Axis, Capability, Loading, Switch};
use crate::{COMBINATIONS, SWITCHES};

/// What a loaded model offers to switches: facts about its shape, and what each switch found.
#[derive(Clone, Default)]
pub struct Host {
    /// Number of blocks that a pass runs.
    pub n_blocks: usize,
    /// Fewest blocks after which the model can answer.
    pub first_exit: usize,
    /// Rows that token switches must keep at the front of each member; `None` where rows may not be dropped.
    pub prefix_rows: Option<usize>,
    /// Width and number of classes where the answer is one row of `logits` per member.
    pub classifier: Option<(usize, usize)>,
    /// Whether a pass runs blocks of several networks, so that layers cannot read the settings of one.
    several: bool,
    /// By axis.
    capabilities: BTreeMap<&'static str, Capability>,
}

impl Host {
    /// What a switch found on this checkpoint; `None` where its axis cannot be set.
    pub fn capability<S: Switch>(&self, switch: &S) -> Option<Arc<S::Capability>> {
        self.capabilities.get(switch.axis())?.clone().downcast().ok()
    }
}

/// The switches of one loaded checkpoint.
#[derive(Clone, Default)]
pub struct Switches {
    host: Host,
}

/// A point that was checked against a checkpoint, ready to run.
pub struct Resolved {
    /// The point with the typed settings that layers read.
    pub point: Point,
    /// What acts between blocks, in order.
    pub rules: Vec<Box<dyn BlockRule>>,
}

/// Name of the point that leaves nothing out.
pub const FULL: &str = "full";

/// A point with a name.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedPoint {
    /// Name, such as `bits-4`.
    pub name: String,
    /// The settings.
    pub point: Point,
    /// What it does, as a phrase.
    pub about: String,
}

impl Switches {
    /// What a checkpoint offers, switch by switch.
    pub fn load(from: &Loading) -> Result<Self> {
        let m = from.model;
        let mut host = Host {
            n_blocks: m.n_blocks(),
            first_exit: m.first_exit(),
            prefix_rows: m.prefix_rows(),
            classifier: m.classifier(),
            several: false,
            capabilities: BTreeMap::new(),
        };
        for switch in SWITCHES {
            host.capabilities.extend(switch.load(from)?.map(|can| (switch.axis(), can)));
        }
        Ok(Switches { host })
    }

    /// These switches, of the first network of a path, for passes along it: what counts blocks counts steps, what one of
    /// its networks does not allow is refused, and so are settings of layers where there are several.
    pub fn on(&self, path: &Path) -> Switches {
        let prefixes = path.models().iter().map(|m| m.prefix_rows().zip(self.host.prefix_rows));
        let classes = |c: Option<(usize, usize)>| c.map(|(_, classes)| classes);
        let same = classes(path.last().classifier()) == classes(self.host.classifier);
        let host = Host {
            n_blocks: path.n_steps(),
            first_exit: path.first_exit(),
            prefix_rows: prefixes.collect::<Option<Vec<_>>>().and(self.host.prefix_rows),
            classifier: self.host.classifier.filter(|_| same),
            several: path.models().len() > 1,
            capabilities: self.host.capabilities.clone(),
        };
        Switches { host }
    }

    /// What the checkpoint offers.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The axes a point may set here.
    pub fn axes(&self) -> Vec<Axis> {
        SWITCHES.iter().map(|s| s.describe(&self.host)).collect()
    }

    /// Checks every setting of a point, once, and gives the rules that it asks for. Errors name the axis, the value and
    /// what this checkpoint accepts.
    pub fn resolve(&self, point: &Point) -> Result<Resolved> {
        if let Some(unknown) = point.axes().find(|a| SWITCHES.iter().all(|s| s.axis() != *a)) {
            if let Some(s) = SWITCHES.iter().find(|s| s.former_name() == Some(unknown)) {
                return Err(Error::point(format!("no axis `{unknown}`"), format!("it is called `{}`", s.axis())));
            }
            let known: Vec<_> = SWITCHES.iter().map(|s| s.axis()).collect();
            return Err(Error::point(format!("no axis `{unknown}`"), format!("axes: {}, seed", known.join(", "))));
        }
        let (mut settings, mut rules) = (Vec::new(), Vec::new());
        for switch in SWITCHES {
            if let Some((setting, rule)) = switch.resolve(point, &self.host)? {
                if !self.host.several {
                    settings.push(setting);
                } else if rule.is_none() {
                    let what = format!("{} is a setting of layers, and the path has several networks", switch.axis());
                    return Err(Error::point(what, "set what acts between blocks, such as `tokens` and `exit`"));
                }
                rules.extend(rule);
            }
        }
        Ok(Resolved { point: point.clone().with_settings(Settings::new(settings)), rules })
    }

    /// Named points that show what the checkpoint offers: the default as `full`, each switch alone, and the combinations.
    pub fn points(&self) -> Vec<NamedPoint> {
        let named: Vec<_> =
            SWITCHES.iter().flat_map(|s| s.points(&self.host).into_iter().map(|named| (s.axis(), named))).collect();
        let mut all = vec![NamedPoint { name: FULL.into(), point: Point::new(), about: "nothing left out".into() }];
        let alone = named.iter().filter(|(_, n)| n.alone);
        all.extend(alone.map(|(axis, n)| NamedPoint {
            name: n.name.clone(),
            point: Point::new().with(axis, n.value.clone()),
            about: n.about.clone(),
        }));
        for parts in COMBINATIONS {
            let found: Option<Vec<_>> = parts.iter().map(|p| named.iter().find(|(_, n)| n.name == *p)).collect();
            if let Some(found) = found {
                let point = found.iter().fold(Point::new(), |p, (axis, n)| p.with(axis, n.value.clone()));
                all.push(NamedPoint { name: parts.join("+"), point, about: parts.join(" and ") });
            }
        }
        all
    }

    /// Bytes of tensors that switches hold beside those that the default point reads.
    pub fn bytes(&self) -> u64 {
        SWITCHES.iter().map(|s| s.bytes(&self.host)).sum()
    }
}
