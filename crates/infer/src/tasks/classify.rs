//! Classes of whole texts and images, and numbers.

use switchformer_nn::Output;
use switchformer_nn::config::ConfigMap;
use switchformer_zoo::HeadKind;

use super::Given;
use crate::answer::{Label, Number, Reply, Scale, best, probabilities};
use crate::error::Result;
use crate::session::Session;

/// Classes that are told.
const SHOWN: usize = 5;

/// What scores of classes mean.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Problem {
    Regression,
    Classes(Scale),
}

impl Problem {
    /// What the folder of a reranker says of its scores (`stated`, or the same in `config.json`, where older ones have it), else
    /// what `problem_type` says; `None` where neither does. A folder that calls itself a reranker (`pairs`) and says no more
    /// gives one label as a probability and several as they are. An unknown one is an error.
    pub(crate) fn read(config: &ConfigMap, stated: Option<&str>, pairs: bool) -> Result<Option<Problem>> {
        let inside = config.sub("sentence_transformers")?.map(|own| own.text("activation_fn", "")).transpose()?;
        let old = config.text("sbert_ce_default_activation_function", "")?;
        let paths = [stated.unwrap_or_default(), inside.as_deref().unwrap_or_default(), &old];
        if let Some(path) = paths.into_iter().find(|path| !path.is_empty()) {
            return match path.strip_prefix("torch.nn.modules.") {
                Some("linear.Identity") => Ok(Some(Problem::Regression)),
                Some("activation.Sigmoid") => Ok(Some(Problem::Classes(Scale::Sigmoid))),
                _ => {
                    let known = "torch.nn.modules.linear.Identity, torch.nn.modules.activation.Sigmoid";
                    Err(switchformer_nn::Error::unsupported("activation_fn of a reranker", path, known).into())
                }
            };
        }
        if pairs {
            let one = config.n_labels()? == 1;
            return Ok(Some(if one { Problem::Classes(Scale::Sigmoid) } else { Problem::Regression }));
        }
        let words = [
            ("", None),
            ("regression", Some(Problem::Regression)),
            ("multi_label_classification", Some(Problem::Classes(Scale::Sigmoid))),
            ("single_label_classification", Some(Problem::Classes(Scale::Softmax))),
        ];
        Ok(config.one_of("problem_type", "", &words)?)
    }
}

/// The likeliest classes of each sample that has scores, or its numbers; and the scores themselves.
pub(crate) fn fill(session: &Session, out: &Output, replies: &mut [Reply]) -> Result<()> {
    let config = &session.opened.config;
    for (i, reply) in replies.iter_mut().enumerate() {
        let Some(scores) = out.of("logits", i).ok().filter(|t| t.dims().len() == 1) else { continue };
        let scores = scores.to_vec1::<f32>()?;
        let problem = match session.problem {
            // One class alone is yes or no, whatever the config calls it.
            Some(Problem::Classes(_)) | None if scores.len() == 1 => Problem::Classes(Scale::Sigmoid),
            Some(stated) => stated,
            None => Problem::Classes(Scale::Softmax),
        };
        match problem {
            Problem::Regression => {
                probabilities(i, &scores, Scale::Sigmoid)?;
                let number = |(i, value): (usize, &f32)| Number { label: config.label(i), value: *value };
                reply.values = Some(scores.iter().enumerate().map(number).collect());
            }
            Problem::Classes(scale) => reply.labels = Some(best(i, &scores, scale, SHOWN, |i| config.label(i))?),
        }
        reply.logits = Some(scores);
    }
    Ok(())
}

/// Whether the second text of each pair follows the first.
pub(crate) fn next_sentence(out: &Output, name: &str, replies: &mut [Reply]) -> Result<()> {
    for (i, reply) in replies.iter_mut().enumerate() {
        let Some(scores) = out.of(name, i).ok() else { continue };
        let scores = scores.to_vec1::<f32>()?;
        let names = ["follows", "does not follow"];
        reply.labels = Some(best(i, &scores, Scale::Softmax, 2, |i| names.get(i).copied().unwrap_or_default().into())?);
        reply.logits = Some(scores);
    }
    Ok(())
}

/// The probability of each second text among all that stand beside the same first one.
pub(crate) fn choices(session: &Session, out: &Output, given: &Given, replies: &mut [Reply]) -> Result<()> {
    debug_assert_eq!(session.head(), HeadKind::MultipleChoice);
    let mut from = 0;
    while from < replies.len() {
        let same = given.names[from..].iter().take_while(|name| **name == given.names[from]).count();
        let mut scores = Vec::with_capacity(same);
        for i in from..from + same {
            scores.extend(out.of("logits", i)?.to_vec1::<f32>()?);
        }
        let shares = probabilities(from, &scores, Scale::Softmax)?;
        for ((reply, probability), score) in replies[from..].iter_mut().zip(shares).zip(&scores) {
            let label = reply.pair.clone().unwrap_or_default();
            reply.labels = Some(vec![Label { label, probability }]);
            reply.logits = Some(vec![*score]);
        }
        from += same;
    }
    Ok(())
}
