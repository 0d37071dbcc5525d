//! Switchformer: Transformers that switch.
