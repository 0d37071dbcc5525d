//! Run Transformers on CPUs, and choose per request how much of the model runs.
//!
//! A checkpoint folder is opened once as a [`Session`](infer::Session) and answers [`Request`](infer::Request)s, each at an
//! operating point of its own: a name such as `exit-3`, or JSON.
//!
//! ```
//! use std::path::Path;
//!
//! use serde_json::json;
//! use switchformer::infer::{Image, Inputs, Request, Session};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let session = Session::open(Path::new("assets/default"), Default::default())?;
//! let picture = Image::file(Path::new("crates/data/tests/fixtures/cat.png"));
//! let mut request = Request::new(Inputs::Images(vec![picture]));
//! let full = session.answer(&request)?;
//! request.point = Some(json!({"exit": 3}));
//! let cheap = session.answer(&request)?;
//! assert!(cheap.macs < full.macs);
//! println!("{:?}", cheap.results[0].labels);
//! # Ok(())
//! # }
//! ```
//!
//! One level down, [`Opened`](zoo::Opened) runs tensors at a [`Point`](nn::Point) and tells every decision that was taken:
//!
//! ```
//! use std::path::Path;
//!
//! use switchformer::nn::Input;
//! use switchformer::zoo::{OpenOptions, Opened};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let opened = Opened::open(Path::new("fixtures/rxnmapper-albert"), OpenOptions { nested: true })?;
//! let input = Input::tokens(&[vec![2u32, 12, 13, 3], vec![2, 12, 3]])?;
//! let (out, trace) = opened.run(&opened.point(Some("bits-4"))?, &input)?;
//! assert_eq!(out.of("logits", 1)?.dims()[0], 3);
//! println!("{} multiply-adds", trace.macs);
//! # Ok(())
//! # }
//! ```
//!
//! | module | what it is for |
//! |---|---|
//! | [`infer`] | sessions, requests, answers: texts and images in, labels, embeddings and texts out |
//! | [`zoo`] | model families: opening folders, published sizes, running tensors |
//! | [`switch`] | operating points: what each switch offers, stored forms of weights |
//! | [`nn`] | the contract of models: inputs, outputs, blocks, layers, weights |
//! | [`data`] | tokenizers, images, data sets |
//! | [`compress`] | smaller forms of a checkpoint |
//! | [`lab`] | training, metrics, the measuring of points |

pub use switchformer_compress as compress;
pub use switchformer_data as data;
pub use switchformer_infer as infer;
pub use switchformer_lab as lab;
pub use switchformer_nn as nn;
pub use switchformer_switch as switch;
pub use switchformer_zoo as zoo;
