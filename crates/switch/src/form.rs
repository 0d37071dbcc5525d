//! Forms of layers: what a plan may put in the place of a dense projection or feed-forward network.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchformer_nn::store::SavedMap;
use switchformer_nn::weights::{LeafMaker, LinearSpec, PatchSpec, TiedSpec};
use switchformer_nn::{Attention, AttentionSpec, Error, Ffn, FfnSpec, Linear, Result, Weights};

use crate::FORMS;
use crate::sites::Sites;

/// A form of layers, found by its name in a plan.
pub trait Form: Send + Sync {
    /// Its name in a plan.
    fn name(&self) -> &'static str;
    /// Checks its parameters; `place` is where they stand, for errors.
    fn check(&self, params: &Value, place: &str) -> Result<()>;
    /// Makes its layers at `sites`. `added` is `switch.safetensors`, given where [`Form::adds`].
    fn leaves(&self, sites: Sites, params: &Value, added: Option<&Weights>) -> Result<Arc<dyn LeafMaker>>;
    /// Whether its tensors are in `switch.safetensors`, so that `model.safetensors` stays what other tools read.
    fn adds(&self) -> bool {
        false
    }
    /// Turns the tensors of a trained model, by their published names, into those that are stored.
    fn save(&self, tensors: &mut SavedMap) -> Result<()> {
        let _ = tensors;
        Ok(())
    }
}

/// A form in a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormUse {
    /// Name of the form.
    pub form: String,
    /// Where it applies, as patterns over dotted names; where the family keeps its blocks, if empty. See [`Sites`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at: Vec<String>,
    /// Its parameters.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub params: Value,
}

impl FormUse {
    /// A form everywhere in the blocks.
    pub fn new(form: &dyn Form, params: Value) -> Self {
        FormUse { form: form.name().to_string(), at: Vec::new(), params }
    }

    /// The form. Errors list what exists.
    pub fn form(&self) -> Result<&'static dyn Form> {
        FORMS.iter().copied().find(|f| f.name() == self.form).ok_or_else(|| {
            let known: Vec<_> = FORMS.iter().map(|f| f.name()).collect();
            Error::unsupported("switch.forms.form", &self.form, known.join(", "))
        })
    }
}

/// Equips the weights of a model, and those added to it, with the forms of a plan; `blocks` is where the family keeps its
/// blocks. A form that adds tensors gets the forms that follow it for the layers inside.
///
/// # Errors
/// An unknown form, its parameters, or a form that adds tensors where there are none.
pub fn equip(
    forms: &[FormUse],
    blocks: &[&str],
    model: Weights,
    added: Option<Weights>,
) -> Result<(Weights, Option<Weights>)> {
    let sites = |used: &FormUse| if used.at.is_empty() { Sites::new(blocks) } else { Sites::new(&used.at) };
    let (mut makers, mut inner) = (Vec::new(), added);
    for used in forms.iter().rev() {
        let form = used.form()?;
        let added = if form.adds() {
            // What the form adds is made of the forms after it, innermost first.
            inner = inner.map(|w| with(w, &makers));
            let missing = || Error::config("switch.json", format!("{} needs switch.safetensors", form.name()));
            Some(inner.as_ref().ok_or_else(missing)?)
        } else {
            None
        };
        makers.insert(0, form.leaves(sites(used), &used.params, added)?);
    }
    Ok((with(model, &makers), inner))
}

fn with(w: Weights, makers: &[Arc<dyn LeafMaker>]) -> Weights {
    match makers {
        [] => w,
        [one] => w.with_leaves(one.clone()),
        many => w.with_leaves(Arc::new(Chain(many.to_vec()))),
    }
}

/// Forms in order: the first that has a layer to give makes it.
struct Chain(Vec<Arc<dyn LeafMaker>>);

impl LeafMaker for Chain {
    fn linear(&self, w: &Weights, spec: &LinearSpec) -> Result<Option<Box<dyn Linear>>> {
        first(&self.0, |maker| maker.linear(w, spec))
    }
    fn ffn(&self, w: &Weights, spec: &FfnSpec) -> Result<Option<Box<dyn Ffn>>> {
        first(&self.0, |maker| maker.ffn(w, spec))
    }
    fn patches(&self, w: &Weights, spec: &PatchSpec) -> Result<Option<Box<dyn Linear>>> {
        first(&self.0, |maker| maker.patches(w, spec))
    }
    fn tied(&self, w: &Weights, spec: &TiedSpec) -> Result<Option<Box<dyn Linear>>> {
        first(&self.0, |maker| maker.tied(w, spec))
    }
    fn attention(&self, w: &Weights, spec: &AttentionSpec) -> Result<Option<Box<dyn Attention>>> {
        first(&self.0, |maker| maker.attention(w, spec))
    }
}

fn first<T>(makers: &[Arc<dyn LeafMaker>], make: impl Fn(&dyn LeafMaker) -> Result<Option<T>>) -> Result<Option<T>> {
    for maker in makers {
        if let Some(leaf) = make(maker.as_ref())? {
            return Ok(Some(leaf));
        }
    }
    Ok(None)
}
