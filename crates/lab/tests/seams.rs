//! Tasks of other kinds than ours, and rules that act while training: what the loop must not stand in the way of.

#![allow(clippy::unwrap_used)]

use serde_json::{Map, Value};
use switchformer_lab::Result;
use switchformer_lab::loss::cross_entropy;
use switchformer_lab::net::Net;
use switchformer_lab::optim::Optimiser;
use switchformer_lab::recipe::Recipe;
use switchformer_lab::task::{Batch, Figures, Losses, Target, Task, logits};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::init::Stream;
use switchformer_nn::{Input, Output, Point, record};
use switchformer_switch::train::Sampled;
use switchformer_tensor::Tensor;
use switchformer_zoo::Opened;

fn recipe(model: &str, rest: &str) -> Recipe {
    let train = "[train]\nsteps = 1\nbatch = 1\nlr = 0.01\nwarmup = 0\n";
    toml::from_str(&format!("name = \"x\"\n[data]\nset = \"none\"\n{train}{rest}[model]\n{model}")).unwrap()
}

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape).unwrap()
}

/// What the tasks here have in common.
trait Stub {
    fn make(&self) -> Batch;
    fn lose(&self, out: &Output, batch: &Batch) -> Result<Losses>;
}

struct Other<S>(S);

impl<S: Stub> Task for Other<S> {
    fn unit(&self) -> &'static str {
        "members"
    }
    fn complete(&self, _: &mut Map<String, Value>) {}
    fn batch(&mut self, _: u64) -> Result<Batch> {
        Ok(self.0.make())
    }
    fn loss(&self, out: &Output, batch: &Batch) -> Result<Losses> {
        self.0.lose(out, batch)
    }
    fn valid(&self) -> Result<Vec<Batch>> {
        Ok(vec![self.0.make()])
    }
    fn files(&self, _: &ConfigMap) -> Result<Vec<(String, Vec<u8>)>> {
        Ok(Vec::new())
    }
    fn measure(&self, _: &Opened, _: &Point) -> Result<Figures> {
        Ok(Figures::new())
    }
}

/// A regression for each text, weighted, and beside it a distribution for each token.
struct TwoHeads;

impl Stub for TwoHeads {
    fn make(&self) -> Batch {
        let target = Target::new()
            .with_values("score", tensor(&[0.5, -0.25], &[2]))
            .with_values("importance", tensor(&[1.0, 3.0], &[2]))
            .with_values("kinds", tensor(&[0.7, 0.3, 0.2, 0.8, 0.5, 0.5, 1.0, 0.0, 0.0, 1.0], &[5, 2]));
        let input = Input::tokens(&[vec![3, 7, 1], vec![5, 2]]).unwrap();
        Batch { input, target, weight: 2.0, size: 5, task: None }
    }
    fn lose(&self, out: &Output, batch: &Batch) -> Result<Losses> {
        let t = &batch.target;
        let gap = (out.get("pooler_output")?.narrow(1, 0, 1)?.flatten_all()? - t.values("score")?)?;
        let scores = (gap.sqr()? * t.values("importance")?)?.sum_all()?;
        let (rows, _) = out.get_rows("last_hidden_state").unwrap();
        let kinds = cross_entropy(&rows.narrow(1, 0, 2)?.contiguous()?, t.values("kinds")?)?;
        Ok(Losses::of("kinds", kinds).and("scores", scores, 0.5))
    }
}

const BERT: &str = "model_type = \"bert\"\narchitectures = [\"BertModel\"]\nvocab_size = 12\nhidden_size = 16\n\
                    num_hidden_layers = 2\nnum_attention_heads = 2\nintermediate_size = 24\n\
                    max_position_embeddings = 16\ninitializer_range = 0.2\n";

fn plain() -> Sampled {
    Sampled { points: vec![Point::new()], pulls: Vec::new() }
}

#[test]
fn regressions_and_distributions_of_two_heads_are_learned_together() {
    let (recipe, mut task) = (recipe(BERT, ""), Other(TwoHeads));
    let net = Net::new(&recipe, &task).unwrap();
    let batch = task.batch(0).unwrap();
    let mut optimiser = Optimiser::new(net.params(), &recipe.train);
    let mut first = None;
    for step in 0..40 {
        let (loss, tape) = record(|| net.loss(&task, &batch, &plain())).unwrap();
        let value = f64::from(loss.value.to_scalar::<f32>().unwrap());
        let terms: f64 = loss.terms.values().sum();
        assert_eq!(loss.terms.keys().copied().collect::<Vec<_>>(), ["kinds", "scores"]);
        assert!((terms - value).abs() < 1e-5, "{:?} {value}", loss.terms);
        first.get_or_insert(loss.terms);
        optimiser.step(&tape.backward(&loss.value).unwrap(), 0.01, 1.0, step).unwrap();
    }
    let last = net.loss(&task, &batch, &plain()).unwrap().terms;
    for (name, before) in first.unwrap() {
        assert!(last[name] < before, "{name}: {before} {last:?}");
    }
    let valid = net.valid(&task, &task.valid().unwrap(), &Point::new()).unwrap();
    assert!((valid - last.values().sum::<f64>()).abs() < 1e-4);
}

/// Two images and their classes.
struct Images;

impl Stub for Images {
    fn make(&self) -> Batch {
        let mut stream = Stream::named("images");
        let pixels: Vec<f32> = (0..2 * 8 * 8).map(|_| stream.unit()).collect();
        let input = Input::pixel_values(tensor(&pixels, &[2, 1, 8, 8]));
        Batch { input, target: Target::classes(vec![1, 2]), weight: 2.0, size: 2, task: None }
    }
    fn lose(&self, out: &Output, batch: &Batch) -> Result<Losses> {
        let loss = switchformer_lab::loss::label_loss(logits(out)?, batch.target.class_ids()?, 0.0)?;
        Ok(Losses::of("classes", loss))
    }
}

#[test]
fn rows_are_pruned_while_exits_are_trained() {
    let vit = "model_type = \"vit\"\narchitectures = [\"ViTForImageClassification\"]\nnum_labels = 3\nhidden_size = 16\n\
               num_hidden_layers = 3\nnum_attention_heads = 2\nintermediate_size = 24\nimage_size = 8\npatch_size = 2\n\
               num_channels = 1\ninitializer_range = 0.3\n";
    let recipe = recipe(vit, "[switch]\nexits = [1, 2]\n");
    let mut task = Other(Images);
    let net = Net::new(&recipe, &task).unwrap();
    let batch = task.batch(0).unwrap();
    let at = |point: &str| Sampled { points: vec![Point::parse(point).unwrap()], pulls: Vec::new() };
    let value = |point: &str| net.loss(&task, &batch, &at(point)).unwrap().value.to_scalar::<f32>().unwrap();
    let whole = value("{}");
    for method in ["random", "class-attention", "zero-tprune"] {
        let keep = |k: f64| format!(r#"{{"tokens":{{"method":"{method}","keep":{k},"after":[1]}}}}"#);
        assert_eq!(value(&keep(1.0)), whole, "{method}");
        assert_ne!(value(&keep(0.5)), whole, "{method}");
        let (loss, tape) = record(|| net.loss(&task, &batch, &at(&keep(0.5)))).unwrap();
        let grads = tape.backward(&loss.value).unwrap();
        for p in net.params() {
            let g = grads.get(p.var.as_tensor()).unwrap_or_else(|| panic!("{method}: {:?} is not trained", p.names));
            let g: Vec<f32> = g.flatten_all().unwrap().to_vec1().unwrap();
            assert!(g.iter().all(|v| v.is_finite()), "{method}: {:?}", p.names);
        }
    }
    let unknown = net.loss(&task, &batch, &at(r#"{"tokens":{"method":"none"}}"#)).err().unwrap();
    assert!(unknown.to_string().contains("tokens"), "{unknown}");
}
