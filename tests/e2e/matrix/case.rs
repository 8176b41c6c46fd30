//! What a case of the matrix is: a write, what is around it, and what must come of it.
//!
//! **Architecture invariant**: plain data. Nothing here knows the policy's code: what is expected is stated, or follows
//! from DESIGN's failure table.

use serde_json::{Value, json};

use super::axes::{Decider, Kind, Mode, Place, Verb, Webhook, Writer};
use super::objects;

/// What must come of a write.
#[derive(Clone, Debug)]
pub struct Expect {
    pub refused: bool,
    pub decider: Decider,
    /// Of a refusal: each of its causes, in order (of one that is not ours: parts of its message).
    pub says: Vec<&'static str>,
    /// Every warning, in order.
    pub warns: Vec<&'static str>,
    /// Where what is stored differs from the spec that was written: pointer below `spec`, and value. Null: absent.
    pub stored: Vec<(&'static str, Value)>,
}

impl Expect {
    fn new(refused: bool, decider: Decider) -> Self {
        Self { refused, decider, says: Vec::new(), warns: Vec::new(), stored: Vec::new() }
    }

    /// Stored as written; asked, the webhooks had nothing against it.
    pub fn passes() -> Self {
        Self::new(false, Decider::Validating)
    }

    /// Stored as written, and no webhook had a say.
    pub fn unasked() -> Self {
        Self::new(false, Decider::Nobody)
    }

    /// Our mutating webhook changes it on its way.
    pub fn stores<const N: usize>(stored: [(&'static str, Value); N]) -> Self {
        Self { stored: stored.into(), ..Self::new(false, Decider::Mutating) }
    }

    pub fn refused(decider: Decider, says: &[&'static str]) -> Self {
        Self { says: says.to_vec(), ..Self::new(true, decider) }
    }

    #[must_use]
    pub fn warns(mut self, warns: &[&'static str]) -> Self {
        self.warns = warns.to_vec();
        self
    }
}

/// Whether a case is about creations, about updates, or about both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ways {
    All,
    Creations,
    Updates,
}

/// One kind of write with one outcome, in as many ways as there are to make it.
#[derive(Clone, Debug)]
pub struct Case {
    pub kind: Kind,
    pub name: &'static str,
    pub place: Place,
    pub writer: Writer,
    /// What else is there before.
    pub around: Vec<Value>,
    /// The object before it is updated; without it, there are only creations.
    pub before: Option<Value>,
    /// The object as the write states it.
    pub write: Value,
    /// In which ways it is written.
    pub ways: Ways,
    /// Whether the object is being deleted.
    pub deleting: bool,
    /// Whether it is one of very many alike.
    pub detail: bool,
    /// Whether the API server asks our webhooks at all.
    asked: bool,
    on_create: Expect,
    on_update: Expect,
    /// What the API server says where our webhooks say nothing.
    schema: Option<&'static str>,
    /// By verb: what differs there, whether the webhooks are up or down.
    by_verb: Vec<(Verb, Expect)>,
    /// While the operator is down, where it does not follow from the failure table.
    down: Option<Expect>,
}

impl Case {
    pub fn new(kind: Kind, name: &'static str, write: Value) -> Self {
        let passes = Expect::passes();
        Self {
            kind,
            name,
            place: Place::Plain,
            writer: Writer::Admin,
            around: Vec::new(),
            before: None,
            write,
            ways: Ways::All,
            deleting: false,
            detail: false,
            asked: true,
            on_create: passes.clone(),
            on_update: passes,
            schema: None,
            by_verb: Vec::new(),
            down: None,
        }
    }

    /// Also as an update of this object.
    #[must_use]
    pub fn before(mut self, object: Value) -> Self {
        self.before = Some(object);
        self
    }

    #[must_use]
    pub fn around<const N: usize>(mut self, objects: [Value; N]) -> Self {
        self.around = objects.into();
        self
    }

    #[must_use]
    pub fn place(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    #[must_use]
    pub fn by(mut self, writer: Writer) -> Self {
        self.writer = writer;
        self
    }

    /// Only as an update.
    #[must_use]
    pub fn update_only(mut self) -> Self {
        self.ways = Ways::Updates;
        self
    }

    /// Only as a creation.
    #[must_use]
    pub fn create_only(mut self) -> Self {
        self.ways = Ways::Creations;
        self
    }

    /// With this annotation in the write.
    #[must_use]
    pub fn annotated(mut self, key: &str, value: &str) -> Self {
        self.write = objects::annotated(self.write, key, value);
        self
    }

    /// With a label in the write.
    #[must_use]
    pub fn labelled(mut self) -> Self {
        self.write["metadata"]["labels"] = json!({"checked": "yes"});
        self
    }

    /// On an object that is being deleted, and held by a finalizer.
    #[must_use]
    pub fn deleting(mut self) -> Self {
        self.deleting = true;
        self.before = self.before.map(objects::held);
        if self.kind != Kind::Scale {
            self.write = objects::held(self.write);
        }
        self.update_only()
    }

    /// The outcome while the operator is up.
    #[must_use]
    pub fn expect(mut self, expect: Expect) -> Self {
        self.on_create = expect.clone();
        self.on_update = expect;
        self
    }

    /// The outcome of a creation, where it differs.
    #[must_use]
    pub fn expect_on_create(mut self, expect: Expect) -> Self {
        self.on_create = expect;
        self
    }

    #[must_use]
    pub fn expect_down(mut self, expect: Expect) -> Self {
        self.down = Some(expect);
        self
    }

    /// The outcome by this verb, where it differs, whether the operator is up or down.
    #[must_use]
    pub fn expect_by(mut self, verb: Verb, expect: Expect) -> Self {
        self.by_verb.push((verb, expect));
        self
    }

    /// The outcome by this verb is that by all others.
    #[must_use]
    pub fn by_default(mut self, verb: Verb) -> Self {
        self.by_verb.retain(|(of, _)| *of != verb);
        self
    }

    /// Only one of very many alike: see [`super::cells`].
    #[must_use]
    pub fn detail(mut self) -> Self {
        self.detail = true;
        self
    }

    /// Our mutating webhook refuses it.
    #[must_use]
    pub fn mutating(self, says: &[&'static str]) -> Self {
        self.expect(Expect::refused(Decider::Mutating, says))
    }

    /// Our validating webhook refuses it.
    #[must_use]
    pub fn validating(self, says: &[&'static str]) -> Self {
        self.expect(Expect::refused(Decider::Validating, says))
    }

    /// The API server refuses it by itself, whether or not our webhooks are asked first.
    #[must_use]
    pub fn schema(self, says: &'static str) -> Self {
        self.expect(Expect::refused(Decider::Schema, &[says])).schema_too(says)
    }

    /// What the API server says where our webhooks are not there to say it before.
    #[must_use]
    pub fn schema_too(mut self, says: &'static str) -> Self {
        self.schema = Some(says);
        self
    }

    /// The same, whether the operator is up or down: our webhooks are not asked.
    #[must_use]
    pub fn unasked(mut self, expect: Expect) -> Self {
        self.asked = false;
        self.expect(expect)
    }

    /// What must come of it. DESIGN's failure table: VLLMClusters and ScaledObjects fail closed, `/scale` and HPAs
    /// open.
    pub fn outcome(&self, verb: Verb, mode: Mode, webhook: Webhook) -> Expect {
        if let Some((_, expect)) = self.by_verb.iter().rev().find(|(of, _)| *of == verb) {
            return expect.clone();
        }
        let up = match mode {
            Mode::New => &self.on_create,
            Mode::Existing => &self.on_update,
        };
        if webhook == Webhook::Up || !self.asked {
            return up.clone();
        }
        if let Some(down) = &self.down {
            return down.clone();
        }
        match (self.kind, self.schema) {
            (Kind::Cluster | Kind::ScaledObject, _) => {
                let says = match self.kind {
                    Kind::Cluster => {
                        "failed calling webhook \"default.vllmclusters.training.distributed-inference.io\""
                    }
                    _ => "failed calling webhook \"default.scaledobjects.training.distributed-inference.io\"",
                };
                Expect::refused(Decider::FailurePolicy, &[says])
            }
            (_, Some(says)) => Expect::refused(Decider::Schema, &[says]),
            (_, None) => Expect::unasked(),
        }
    }
}
