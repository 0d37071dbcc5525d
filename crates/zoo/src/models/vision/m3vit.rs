//! M3ViT - a ViT in which every second feed-forward is a bank of experts with a gate per task.
//!
//! Paper: "M3ViT: Mixture-of-Experts Vision Transformer for Efficient Multi-task Learning with Model-Accelerator
//! Co-design", arXiv 2210.14793. Code: VITA-Group/M3ViT; the authors' names load. Weights: none published.
//! Idea: one encoder for several dense tasks. The gate of the task picks a few small experts for every row, so a pass for
//! one task reads only the experts that its gate picks, and another task is another gate: nothing is loaded or packed
//! again. A decoder per task (convolutions and bilinear steps) turns patches into a map as large as the image.
//! Shapes: `pixels [b, c, h, w] -> rows [b * (1 + gh * gw), dim] -> logits [b, channels of the task, h, w]`.
//! The task is an axis of the point: `{"task": 1}`; the first where it names none.
//! Departs from the reference: other image sizes resize the positions; pruned experts do not run (there they run and
//! count nothing); files written name every expert, where the authors stack them in one tensor (both are read); no
//! noise in training, and the cross-task module that acts in training alone is not read.
//! Sizes: the encoders of the authors' command (16 experts, 4 of them per row, each as wide as the rows), alone and with
//! decoders.

use std::sync::Arc;

use serde_json::Value as Json;
use switchformer_nn::config::{self, ConfigMap, MAX_DEPTH, MAX_DIM, MAX_HEADS, MAX_LABELS, MAX_SIDE};
use switchformer_nn::layers::{Activation, BatchNorm, LayerNorm, check_heads, dense_ffn};
use switchformer_nn::maps::{Conv, maps_of, resize_maps};
use switchformer_nn::maps::{ImageEmbed, patches_divide};
use switchformer_nn::names::{Names, Rename};
use switchformer_nn::staged::State;
use switchformer_nn::weights::PatchSpec;
use switchformer_nn::{
    Attention, AttentionNames, AttentionSpec, Ctx, Error, Ffn, FfnSpec, Input, InputSpec, Model, Output, ParamKind,
    Result, Rows, Size, Staged, Tensor, Weights, ops,
};
use switchformer_switch::leaf::experts::{BalanceLoss, Bank, Beside, Choosers, Factor, Gate, Gating, MAX_EXPERTS};
use switchformer_switch::task::{note, task_of};

use crate::entry::{Entry, HeadKind, Timm, Trait};
use crate::published::Published;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "m3vit",
    paper: "M3ViT: Mixture-of-Experts Vision Transformer for Efficient Multi-task Learning with Model-Accelerator \
            Co-design, arXiv 2210.14793",
    summary: "ViT for several dense tasks: experts in every second block, a gate and a decoder per task",
    architectures: &[("VisionTransformerMoE", HeadKind::Encoder), ("MultiTaskModel", HeadKind::Dense)],
    published: Published::new(include_str!("../../../variants/m3vit.json")),
    names: Names::new(RULES, IGNORE),
    blocks: &["blocks."],
    prefix: "backbone.",
    heads: &["decoders"],
    traits: &[Trait::NoExitHeads, Trait::OwnExperts],
    toy: r#"{"model_type":"m3vit","architectures":["MultiTaskModel"],"img_size":[8,12],"patch_size":4,"in_chans":1,
        "embed_dim":16,"depth":2,"num_heads":2,"mlp_ratio":2.0,"moe_mlp_ratio":1.0,"moe_experts":4,"moe_top_k":1,
        "multi_gate":true,"gate_dim":18,"tasks":["parts","depth"],"task_channels":[3,2],"decoder_width":8}"#,
    load: |config, w| Ok(Box::new(M3Vit::load(config, w)?)),
};

/// The authors' constructor, in the same folder form as timm's.
pub static TIMM: Timm = Timm {
    family: "m3vit",
    entry: &ENTRY,
    architecture: "VisionTransformerMoE",
    args: &[
        ("img_size", "img_size"),
        ("patch_size", "patch_size"),
        ("in_chans", "in_chans"),
        ("embed_dim", "embed_dim"),
        ("depth", "depth"),
        ("num_heads", "num_heads"),
        ("mlp_ratio", "mlp_ratio"),
        ("qkv_bias", "qkv_bias"),
        ("qk_scale", "qk_scale"),
        ("representation_size", "representation_size"),
        ("distilled", "distilled"),
        ("hybrid_backbone", "hybrid_backbone"),
        ("moe_mlp_ratio", "moe_mlp_ratio"),
        ("moe_experts", "moe_experts"),
        ("moe_top_k", "moe_top_k"),
        ("world_size", "world_size"),
        ("gate_dim", "gate_dim"),
        ("gate_return_decoupled_activation", "gate_return_decoupled_activation"),
        ("moe_gate_type", "moe_gate_type"),
        ("vmoe_noisy_std", "vmoe_noisy_std"),
        ("gate_task_specific_dim", "gate_task_specific_dim"),
        ("multi_gate", "multi_gate"),
        ("regu_experts_fromtask", "regu_experts_fromtask"),
        ("num_experts_pertask", "num_experts_pertask"),
        ("num_tasks", "num_tasks"),
        ("gate_input_ahead", "gate_input_ahead"),
        ("regu_sem", "regu_sem"),
        ("sem_force", "sem_force"),
        ("regu_subimage", "regu_subimage"),
        ("expert_prune", "expert_prune"),
        ("random_init", "random_init"),
        ("pos_embed_interp", "pos_embed_interp"),
        ("model_name", "model_name"),
    ],
    pool: "",
};

/// The authors' names: an encoder inside the whole model, experts stacked in one tensor.
const RULES: &[Rename] = &[
    ("module.**", "**"),
    ("backbone.**", "**"),
    ("blocks.*.mlp.experts.htoh4.*", "blocks.*.mlp.experts.#.htoh4.*"),
    ("blocks.*.mlp.experts.h4toh.*", "blocks.*.mlp.experts.#.h4toh.*"),
];

const IGNORE: &[&str] = &["**.num_batches_tracked", "tam_model0.**", "tam_model1.**", "tam_model2.**"];

/// All layer norms.
const EPS: f64 = 1e-6;
/// Batch norms of the decoders.
const BATCH_EPS: f64 = 1e-5;
/// Experts at or below this probability do not run where the config prunes.
const FLOOR: f32 = 0.1;
/// Share of the balance loss.
const BALANCE: f64 = 0.01;
/// Convolutions of a decoder in front of the last one.
const DECODER_CONVS: usize = 4;

/// How the gates of a block know the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tasks {
    /// They do not: one gate for all.
    Shared,
    /// A gate per task.
    Gates,
    /// One gate that reads a learned vector of the task beside every row, of this width.
    Vector(usize),
}

/// The authors' arguments, checked.
struct Config {
    dim: usize,
    depth: usize,
    heads: usize,
    mlp_dim: usize,
    qkv_bias: bool,
    channels: usize,
    image: Size,
    patch: Size,
    experts: usize,
    expert_dim: usize,
    gating: Gating,
    tasks: Tasks,
    n_tasks: usize,
    /// Experts that a task may choose, as (first, number), where every task has a window of its own.
    windows: Option<Vec<(usize, usize)>>,
    /// Whether gates read the rows as they enter the block.
    ahead: bool,
}

impl Config {
    fn read(c: &ConfigMap) -> Result<Self> {
        for field in ["distilled", "gate_return_decoupled_activation", "regu_sem", "sem_force", "regu_subimage"] {
            c.only(field, &[false.into()])?;
        }
        for field in ["qk_scale", "representation_size", "hybrid_backbone"] {
            c.only(field, &[Json::Null])?;
        }
        c.only("world_size", &[1.into()])?;
        c.only("moe_gate_type", &["noisy_vmoe".into()])?;
        let dim = c.size("embed_dim", Some(1024), MAX_DIM)?;
        let ratio = c.float("mlp_ratio", 4.0, 0.01, 64.0)?;
        let expert_ratio = positive(c, "moe_mlp_ratio", 64)?.unwrap_or(ratio);
        let experts = c.size("moe_experts", Some(64), MAX_EXPERTS)?;
        let patch = c.pair("patch_size", 16, MAX_SIDE)?;
        let width = |ratio: f64| ((dim as f64 * ratio) as usize).max(1);
        let mut config = Config {
            dim,
            depth: c.size("depth", Some(24), MAX_DEPTH)?,
            heads: c.size("num_heads", Some(16), MAX_HEADS)?,
            mlp_dim: width(ratio),
            // The authors' files say "True,": text, and true.
            qkv_bias: c
                .get("qkv_bias")
                .and_then(Json::as_str)
                .map_or_else(|| c.flag("qkv_bias", true), |_| Ok(true))?,
            channels: c.size("in_chans", Some(3), 64)?,
            image: c.pair("img_size", 384, MAX_SIDE)?,
            patch,
            experts,
            expert_dim: width(expert_ratio),
            gating: Gating {
                balance_loss: BalanceLoss::Variation,
                balance: BALANCE,
                prune: c.flag("expert_prune", false)?.then_some(FLOOR),
                ..Gating::plain(c.size("moe_top_k", Some(2), experts)?, Factor::Probability)
            },
            tasks: Tasks::Shared,
            n_tasks: 1,
            windows: None,
            ahead: c.flag("gate_input_ahead", false)?,
        };
        check_heads(dim, config.heads)?;
        patches_divide("img_size", config.image, config.patch)?;
        config.read_tasks(c)?;
        Ok(config)
    }

    /// How tasks differ: `gate_dim` is the width and one more per task.
    fn read_tasks(&mut self, c: &ConfigMap) -> Result<()> {
        let gate_dim = positive(c, "gate_dim", MAX_DIM)?.map_or(self.dim, |n| n as usize);
        let counted = gate_dim.checked_sub(self.dim).filter(|n| *n <= 64);
        let told = positive(c, "gate_task_specific_dim", MAX_DIM)?.map(|n| n as usize);
        self.tasks = match (c.flag("multi_gate", false)?, told) {
            (true, None) => Tasks::Gates,
            (true, Some(n)) => {
                return Err(Error::unsupported("gate_task_specific_dim", n.to_string(), "-1 with multi_gate"));
            }
            (false, Some(n)) => Tasks::Vector(n),
            (false, None) => Tasks::Shared,
        };
        if self.tasks != Tasks::Shared {
            self.n_tasks = counted.filter(|n| *n > 0).ok_or_else(|| {
                Error::config("gate_dim", format!("is {gate_dim}, must be embed_dim ({}) plus 1 to 64 tasks", self.dim))
            })?;
        }
        if c.flag("regu_experts_fromtask", false)? {
            if self.tasks == Tasks::Gates {
                return Err(Error::unsupported("regu_experts_fromtask", "true", "false with multi_gate"));
            }
            let (n, some) = (c.size("num_tasks", None, 64)?, c.size("num_experts_pertask", None, self.experts)?);
            if self.tasks == Tasks::Shared {
                self.n_tasks = n;
            }
            self.windows = Some(windows(self.experts, n, some)?);
            if n < self.n_tasks {
                return Err(Error::config("num_tasks", format!("is {n} for {} tasks", self.n_tasks)));
            }
            if some < self.gating.top_k {
                let what = format!("is {some}, fewer than moe_top_k = {}", self.gating.top_k);
                return Err(Error::config("num_experts_pertask", what));
            }
        }
        Ok(())
    }
}

/// A number above zero, `None` where it is absent, null or the authors' -1.
fn positive(c: &ConfigMap, field: &str, max: usize) -> Result<Option<f64>> {
    match c.get(field) {
        None => Ok(None),
        Some(v) if v.as_f64().is_some_and(|n| n < 0.0) => Ok(None),
        Some(_) => c.float(field, 1.0, 0.01, max as f64).map(Some),
    }
}

/// Windows of experts, task by task: every start is the one before plus its own step, as in the reference.
fn windows(experts: usize, tasks: usize, some: usize) -> Result<Vec<(usize, usize)>> {
    let steps = (0..tasks).map(|i| i * (experts - some) / (tasks - 1).max(1));
    let all: Vec<(usize, usize)> = steps
        .scan(0, |start, step| {
            *start += step;
            Some((*start, some))
        })
        .collect();
    match all.iter().find(|(start, _)| start + some > experts) {
        Some((start, _)) => Err(Error::config(
            "num_experts_pertask",
            format!("gives a task the experts {start} to {}, there are {experts}", start + some - 1),
        )),
        None => Ok(all),
    }
}

/// The learned vectors of tasks: `norm(fc2(gelu(fc1(one of n))))`.
struct TaskVector {
    fc1: Tensor,
    bias1: Tensor,
    fc2: Tensor,
    bias2: Tensor,
    norm: LayerNorm,
}

impl TaskVector {
    fn load(w: &Weights, tasks: usize, dim: usize) -> Result<Self> {
        let matrix = |name: &str, inner: usize| w.at(name).tensor("weight", &[dim, inner], ParamKind::Kernel);
        let bias = |name: &str| w.at(name).tensor("bias", &[dim], ParamKind::Vector);
        Ok(TaskVector {
            fc1: matrix("fc1", tasks)?,
            bias1: bias("fc1")?,
            fc2: matrix("fc2", dim)?,
            bias2: bias("fc2")?,
            norm: w.layer_norm("norm", dim, EPS)?,
        })
    }

    /// Shapes: -> `[1, dim]`.
    fn of(&self, task: usize) -> Result<Tensor> {
        let hidden = (self.fc1.narrow(1, task, 1)?.t()?.contiguous()? + self.bias1.unsqueeze(0)?)?;
        self.norm.forward(&ops::linear(&Activation::Gelu.forward(&hidden)?, &self.fc2, Some(&self.bias2))?)
    }
}

enum Mlp {
    Dense(Box<dyn Ffn>),
    Experts(Bank),
}

struct Block {
    norm1: LayerNorm,
    attn: Box<dyn Attention>,
    norm2: LayerNorm,
    mlp: Mlp,
    /// Whether the gate reads the rows as they came in.
    ahead: bool,
}

impl Block {
    fn load(c: &Config, w: &Weights, idx: usize, vector: Option<&Arc<TaskVector>>) -> Result<Self> {
        let names = AttentionNames::new(["attn.qkv"; 3], "attn.proj");
        let ffn = FfnSpec::new(&["mlp.fc1"], "mlp.fc2", [c.dim, c.mlp_dim], Activation::Gelu);
        Ok(Block {
            norm1: w.layer_norm("norm1", c.dim, EPS)?,
            attn: w.attention(&AttentionSpec { bias: [c.qkv_bias; 3], ..AttentionSpec::new(names, c.dim, c.heads) })?,
            norm2: w.layer_norm("norm2", c.dim, EPS)?,
            mlp: if idx.is_multiple_of(2) {
                Mlp::Dense(w.ffn(&ffn)?)
            } else {
                Mlp::Experts(bank(c, &w.at("mlp"), vector)?)
            },
            ahead: c.ahead,
        })
    }

    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let after = self.attn.forward_onto(cx, &self.norm1.forward(x)?, rows, x)?;
        let normed = self.norm2.forward(&after)?;
        match &self.mlp {
            Mlp::Dense(ffn) => ffn.forward_onto(cx, &normed, rows, &after),
            Mlp::Experts(bank) => {
                let seen = if self.ahead { x } else { &normed };
                let fed = bank.forward_by(cx, &normed, seen, rows)?;
                cx.onto(&after, fed, "ffn")
            }
        }
    }
}

/// The experts of a block and a gate for every task; tasks share a gate where the published layout has one.
fn bank(c: &Config, w: &Weights, vector: Option<&Arc<TaskVector>>) -> Result<Bank> {
    let spec = FfnSpec::new(&["htoh4"], "h4toh", [c.dim, c.expert_dim], Activation::Gelu);
    let experts = (0..c.experts).map(|e| dense_ffn(&w.at("experts").at(e), &spec)).collect::<Result<_>>()?;
    let wide = if let Tasks::Vector(n) = c.tasks { c.dim + n } else { c.dim };
    let weight = |w: &Weights| w.tensor("w_gate", &[wide, c.experts], ParamKind::Table);
    let shared = if c.tasks == Tasks::Gates { None } else { Some(weight(&w.at("gate"))?) };
    let gate = |task: usize| -> Result<Gate> {
        let weight = match &shared {
            Some(one) => one.clone(),
            None => weight(&w.at("gate").at(task))?,
        };
        let beside = vector.cloned().map(|v| -> Beside { Arc::new(move || v.of(task)) });
        Ok(Gate::of_columns(weight, beside, c.windows.as_ref().map(|all| all[task])))
    };
    let gates = (0..c.n_tasks).map(gate).collect::<Result<_>>()?;
    let bank = Bank::new(c.dim, experts, Choosers { gates, steps: Vec::new() }, c.gating)?;
    bank.note(w);
    Ok(bank)
}

/// Patches to a map as large as the image: norm, four times convolution, batch norm and ReLU with a bilinear step to
/// twice the size between, a last convolution to the channels of the task.
struct Decoder {
    norm: LayerNorm,
    convs: Vec<(Conv, BatchNorm)>,
    last: Conv,
}

impl Decoder {
    fn load(w: &Weights, dim: usize, width: usize, channels: usize) -> Result<Self> {
        let conv = |i: usize| -> Result<(Conv, BatchNorm)> {
            let inner = if i == 0 { dim } else { width };
            let conv = Conv::load(&w.at(format!("conv_{i}")), [width, inner, 3], [1, 1], true)?;
            Ok((conv, w.batch_norm(&format!("syncbn_fc_{i}"), width, BATCH_EPS)?))
        };
        Ok(Decoder {
            norm: w.layer_norm("norm", dim, EPS)?,
            convs: (0..DECODER_CONVS).map(conv).collect::<Result<_>>()?,
            last: Conv::load(&w.at(format!("conv_{DECODER_CONVS}")), [channels, width, 1], [1, 0], true)?,
        })
    }

    /// Shapes: x `[patches, dim]` -> `[pixels, channels]`.
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows, patch: Size) -> Result<(Tensor, Rows)> {
        let image: Vec<Size> = rows.sizes()?.iter().map(|(h, w)| (h * patch.0, w * patch.1)).collect();
        let (mut x, mut rows) = (self.norm.forward(x)?, rows.clone());
        for (i, (conv, norm)) in self.convs.iter().enumerate() {
            if i > 0 {
                (x, rows) = twice(&x, &rows)?;
            }
            (x, rows) = conv.forward(cx, &x, &rows)?;
            x = Activation::Relu.forward(&norm.forward(cx, &x)?)?;
        }
        (x, rows) = self.last.forward(cx, &x, &rows)?;
        (x, rows) = twice(&x, &rows)?;
        resize_maps(&x, &rows, &image)
    }
}

fn twice(x: &Tensor, rows: &Rows) -> Result<(Tensor, Rows)> {
    let to: Vec<Size> = rows.sizes()?.iter().map(|(h, w)| (2 * h, 2 * w)).collect();
    resize_maps(x, rows, &to)
}

/// The model: the encoder, and with `tasks` a decoder for each.
pub struct M3Vit {
    config: Config,
    embed: ImageEmbed,
    blocks: Vec<Block>,
    decoders: Vec<Decoder>,
}

impl M3Vit {
    fn load(c: &ConfigMap, w: &Weights) -> Result<Self> {
        let config = Config::read(c)?;
        let (channels, patch, dim) = (config.channels, config.patch, config.dim);
        let patches = PatchSpec { name: "patch_embed.proj", channels, patch, dim, bias: true };
        let vector = match config.tasks {
            Tasks::Vector(n) => Some(Arc::new(TaskVector::load(&w.at("gate_task_represent"), config.n_tasks, n)?)),
            _ => None,
        };
        let decoders = match ENTRY.architecture(c)? {
            "MultiTaskModel" => decoders(c, &config, &w.at("decoders"))?,
            _ => Vec::new(),
        };
        note(w, config.n_tasks.max(decoders.len()));
        Ok(M3Vit {
            embed: ImageEmbed::load(w, &patches, config.image, &["cls_token"], "pos_embed")?,
            blocks: (0..config.depth)
                .map(|i| Block::load(&config, &w.at("blocks").at(i), i, vector.as_ref()))
                .collect::<Result<_>>()?,
            decoders,
            config,
        })
    }
}

/// A decoder for each of `tasks`, whose maps have `task_channels`.
fn decoders(c: &ConfigMap, config: &Config, w: &Weights) -> Result<Vec<Decoder>> {
    let word = |v: &Json| {
        let name = v.as_str()?;
        let good = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        good.then(|| name.to_string())
    };
    let names: Vec<String> = c
        .list("tasks", 1..=64, "names of letters and digits", word)?
        .ok_or_else(|| Error::config("tasks", "is missing: a decoder for each"))?;
    let channels = c
        .list("task_channels", names.len()..=names.len(), "numbers of channels", |v| config::whole(v, 1..=MAX_LABELS))?
        .ok_or_else(|| Error::config("task_channels", "is missing: one number for each task"))?;
    if config.tasks != Tasks::Shared && names.len() != config.n_tasks {
        return Err(Error::config("tasks", format!("names {} tasks, gate_dim counts {}", names.len(), config.n_tasks)));
    }
    let width = c.size("decoder_width", Some(256), MAX_DIM)?;
    names.iter().zip(channels).map(|(name, n)| Decoder::load(&w.at(name), config.dim, width, n)).collect()
}

impl Staged for M3Vit {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn stem(&self, cx: &mut Ctx, input: &Input) -> Result<State> {
        self.embed.forward(cx, input)
    }
    fn block(&self, cx: &mut Ctx, idx: usize, state: State) -> Result<State> {
        Ok(State { x: self.blocks[idx].forward(cx, &state.x, &state.rows)?, ..state })
    }
    fn head(&self, cx: &mut Ctx, state: State) -> Result<Output> {
        if self.decoders.is_empty() {
            return Ok(Output::new().rows("last_hidden_state", state.x, &state.rows));
        }
        let task = task_of(cx.point);
        let decoder = self.decoders.get(task).ok_or_else(|| {
            Error::point(format!("task: no decoder for task {task}"), format!("here: 0..{}", self.decoders.len() - 1))
        })?;
        let (behind, map) = state.rows.split_maps()?;
        let n = behind.len();
        let patches = ops::gather(&state.x, &Tensor::from_vec(behind, n)?)?;
        let (x, rows) = decoder.forward(cx, &patches, &map, self.config.patch)?;
        let channels_first = |map: Tensor| map.permute((2, 0, 1))?.contiguous(); // [channels, h, w]
        let maps = maps_of(&x, &rows)?.into_iter().map(channels_first).collect::<Result<_>>()?;
        Output::new().each("logits", maps)
    }
}

impl Model for M3Vit {
    fn spec(&self) -> InputSpec {
        InputSpec::images(self.config.channels, self.config.image, self.config.patch)
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
}
