//! A stage: what a few cases stand on, made once, used by one write after the other, and put back after each that
//! changed it.
//!
//! **Architecture invariant**: writes and reads, and judges nothing. What could not be put back breaks the stage, and
//! its remaining cells say so.

use std::collections::HashMap;

use anyhow::{Context as _, ensure};
use axum::http::Method;
use kube::Client;
use serde_json::{Value, json};

use super::api::{Answer, Call, collection, collection_of};
use super::asked::Asked;
use super::axes::{Kind, Mode, Place, Verb, Webhook, Writer};
use super::cells::Cell;
use super::write::{APPLY, MANAGER, MERGE, call, difference, projection};

/// Cells of one stage: more stages cost more clusters, fewer leave less to do side by side.
const CASES: usize = 6;
/// A PUT meets the operator's own write of status now and then.
const ATTEMPTS: usize = 5;

/// What was seen of one cell.
#[derive(Clone, Debug)]
pub struct Seen {
    pub answer: Answer,
    /// The object before and after, as far as a write can change it.
    pub before: Option<Value>,
    pub after: Option<Value>,
    /// Of an HPA: whether the operator was asked, by its own count.
    pub counted: Option<bool>,
}

/// See the module.
pub struct Stage<'a> {
    /// Sets its objects apart from those of other stages.
    pub id: String,
    pub kind: Kind,
    place: Place,
    mode: Mode,
    deleting: bool,
    around: &'a [Value],
    before: Option<&'a Value>,
    /// Which cells, by index.
    pub cells: Vec<usize>,
    uids: HashMap<String, String>,
    /// Who owned what of the object before.
    owners: Vec<Value>,
    broken: Option<String>,
}

/// All stages that the cells need.
pub fn stages<'a>(cells: &[Cell<'a>]) -> Vec<Stage<'a>> {
    let mut stages: Vec<Stage<'a>> = Vec::new();
    let mut open: HashMap<String, (usize, Vec<&'static str>)> = HashMap::new();
    for (index, cell) in cells.iter().enumerate() {
        let case = cell.case;
        let before = case.before.as_ref().filter(|_| cell.mode == Mode::Existing);
        let key = format!(
            "{:?} {:?} {:?} {} {:?} {before:?}",
            case.kind, case.place, cell.mode, case.deleting, case.around
        );
        let stage = match open.get_mut(&key) {
            Some((stage, names)) if names.contains(&case.name) || names.len() < CASES => {
                if !names.contains(&case.name) {
                    names.push(case.name);
                }
                *stage
            }
            _ => {
                stages.push(Stage {
                    id: format!("{:03}", stages.len()),
                    kind: case.kind,
                    place: case.place,
                    mode: cell.mode,
                    deleting: case.deleting,
                    around: &case.around,
                    before,
                    cells: Vec::new(),
                    uids: HashMap::new(),
                    owners: Vec::new(),
                    broken: None,
                });
                open.insert(key, (stages.len() - 1, vec![case.name]));
                stages.len() - 1
            }
        };
        stages[stage].cells.push(index);
    }
    stages
}

impl Stage<'_> {
    /// Makes what the cells stand on.
    pub async fn set_up(&mut self, client: &Client) -> anyhow::Result<()> {
        let around = self.around.iter();
        // A count that lies outside of its ScaledObject's range was there first; whatever drives a cluster comes later.
        let objects: Vec<&Value> = match self.kind {
            Kind::Cluster | Kind::Scale => self.before.into_iter().chain(around).collect(),
            _ => around.chain(self.before).collect(),
        };
        for object in objects {
            let object = self.fill(object);
            let name = name_of(&object);
            let path = collection_of(&object, self.place.namespace());
            let made = apply(client, &format!("{path}/{name}"), &object, Writer::Admin).await?;
            ensure!(made.ok(), "{path}/{name} could not be made: {}", made.message());
            if Some(&object["kind"]) == self.before.map(|before| &before["kind"]) {
                let owners = made.body["metadata"]["managedFields"].as_array().into_iter().flatten();
                self.owners = owners.filter(|entry| entry["manager"] == MANAGER).cloned().collect();
            }
            self.uids.insert(name, made.body["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
        }
        if self.deleting {
            let path = self.address(&self.fill(self.before.context("nothing to delete")?));
            let answer = Call::new(Method::DELETE, path).send(client).await?;
            ensure!(answer.ok(), "{}", answer.message());
        }
        Ok(())
    }

    /// Writes the cells of one phase, one after the other.
    pub async fn run(
        &mut self,
        client: &Client,
        cells: &[Cell<'_>],
        webhook: Webhook,
        asked: Option<&Asked>,
    ) -> anyhow::Result<Vec<(usize, Result<Seen, String>)>> {
        let mut seen = Vec::new();
        // What a cell changes is put back, so one look at the start is enough.
        let before = match self.before {
            Some(before) => self.state(client, &self.fill(before)).await?,
            None => None,
        };
        for index in self.cells.clone() {
            let cell = &cells[index];
            if cell.webhook != webhook {
                continue;
            }
            if let Some(why) = &self.broken {
                seen.push((index, Err(format!("not written: {why}"))));
                continue;
            }
            let found =
                self.write(client, cell, index, before.clone(), asked).await.with_context(|| cell.id())?;
            // Of an object that was there, a write may have changed an owner and nothing else.
            let written = found.answer.ok() && !cell.dry;
            let changed = found.before != found.after || (written && self.mode == Mode::Existing);
            if changed && let Err(error) = self.restore(client, cell, &found).await {
                self.broken = Some(format!("{} could not be undone: {error:#}", cell.id()));
            }
            seen.push((index, Ok(found)));
        }
        Ok(seen)
    }

    async fn write(
        &self,
        client: &Client,
        cell: &Cell<'_>,
        index: usize,
        before: Option<Value>,
        asked: Option<&Asked>,
    ) -> anyhow::Result<Seen> {
        let wanted = self.wanted(cell);
        let mut answer = None;
        for attempt in 0..ATTEMPTS {
            let current = if self.mode == Mode::Existing && cell.verb != Verb::Apply {
                let path = collection(self.kind, self.place.namespace());
                get(client, &format!("{path}/{}", name_of(&wanted))).await?.context("it is gone")?
            } else {
                Value::Null
            };
            let namespace = self.place.namespace();
            let mut request = call(self.kind, cell.verb, self.mode, namespace, &wanted, &current, cell.dry);
            request.writer = cell.case.writer;
            request.audit_id = Some(audit_id(index));
            let got = request.send(client).await?;
            let conflict = got.code == 409 && attempt + 1 < ATTEMPTS;
            answer = Some(got);
            if !conflict {
                break;
            }
        }
        let counted = match asked {
            Some(asked) => Some(asked.again(client).await?),
            None => None,
        };
        let answer = answer.context("no attempt was made")?;
        // The server has chosen a name: it is gone with the namespace.
        let after = if name_of(&wanted).is_empty() { None } else { self.state(client, &wanted).await? };
        Ok(Seen { answer, before, after, counted })
    }

    /// The object as a cell writes it, under the names of this stage.
    pub fn wanted(&self, cell: &Cell<'_>) -> Value {
        let mut wanted = self.fill(&cell.case.write);
        if self.kind == Kind::HpaV1 {
            wanted["apiVersion"] = json!("autoscaling/v1");
        }
        wanted
    }

    /// What was there before, under the names of this stage.
    pub fn around(&self) -> Vec<Value> {
        self.around.iter().map(|object| self.fill(object)).collect()
    }

    /// Text and objects of a case under the names of this stage.
    pub fn text(&self, text: &str) -> String {
        let mut text = text.replace('@', &self.id);
        for (name, uid) in &self.uids {
            text = text.replace(&format!("uid of {name}"), uid);
        }
        text
    }

    fn fill(&self, value: &Value) -> Value {
        serde_json::from_str(&self.text(&value.to_string())).unwrap_or_default()
    }

    fn address(&self, object: &Value) -> String {
        let kind = if self.kind.is_hpa() { Kind::HpaV2 } else { self.kind };
        format!("{}/{}", collection(kind, self.place.namespace()), name_of(object))
    }

    async fn state(&self, client: &Client, wanted: &Value) -> anyhow::Result<Option<Value>> {
        if name_of(wanted).is_empty() {
            return Ok(None);
        }
        Ok(get(client, &self.address(wanted)).await?.map(|object| projection(&object)))
    }

    /// Puts back what a cell has changed.
    async fn restore(&self, client: &Client, cell: &Cell<'_>, seen: &Seen) -> anyhow::Result<()> {
        let Seen { before, after: now, answer: _, counted: _ } = seen;
        let (before, now) = (before.as_ref(), now.as_ref());
        let wanted = self.wanted(cell);
        let address = self.address(&wanted);
        let Some(before) = before else {
            let answer = Call::new(Method::DELETE, address).send(client).await?;
            ensure!(answer.ok() || answer.code == 404, "{}", answer.message());
            return Ok(());
        };
        // Writes of ScaledObjects by KEDA and of scales by an autoscaler are let through, whatever they undo.
        let writer = if self.kind == Kind::ScaledObject { Writer::Keda } else { Writer::Admin };
        let base = self.fill(self.before.context("nothing was there before")?);
        let now = if self.kind == Kind::Scale {
            self.scale_back(client, &address, &base).await?;
            get(client, &address).await?.context("it is gone")?
        } else {
            let patch = difference(now.context("it is gone")?, before);
            let mut answer = self.patch(client, &address, &patch, writer).await?;
            if !answer.ok() && self.kind == Kind::Cluster {
                self.scale_back(client, &address, &base).await?;
                answer = self.patch(client, &address, &patch, writer).await?;
            }
            ensure!(answer.ok(), "{}", answer.message());
            answer.body
        };
        // Each field is its first owner's again: an apply that leaves it out must find it so.
        let others = now["metadata"]["managedFields"].as_array().into_iter().flatten();
        let others = others.filter(|entry| entry["manager"] != MANAGER && entry["subresource"] != "scale");
        let owners: Vec<_> = others.chain(&self.owners).cloned().collect();
        let owned = json!({"metadata": {"managedFields": owners}});
        let answer = self.patch(client, &address, &owned, writer).await?;
        ensure!(answer.ok(), "{}", answer.message());
        let now = projection(&answer.body);
        ensure!(now == *before, "it is {now}, and was {before}");
        Ok(())
    }

    async fn patch(
        &self,
        client: &Client,
        address: &str,
        patch: &Value,
        writer: Writer,
    ) -> anyhow::Result<Answer> {
        let url = format!("{address}?fieldManager={MANAGER}");
        Call::new(Method::PATCH, url).typed(MERGE).body(patch.clone()).by(writer).send(client).await
    }

    async fn scale_back(&self, client: &Client, address: &str, base: &Value) -> anyhow::Result<()> {
        let patch = json!({"spec": {"replicas": base["spec"]["replicas"]}});
        let call =
            Call::new(Method::PATCH, format!("{address}/scale")).typed(MERGE).body(patch).by(Writer::Keda);
        let answer = call.send(client).await?;
        ensure!(answer.ok(), "{}", answer.message());
        Ok(())
    }
}

/// Under which id the audit log has a cell.
pub fn audit_id(index: usize) -> String {
    format!("matrix-cell-{index}")
}

pub fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

pub async fn apply(client: &Client, path: &str, object: &Value, writer: Writer) -> anyhow::Result<Answer> {
    let path = format!("{path}?fieldManager={MANAGER}&force=true");
    Call::new(Method::PATCH, path).typed(APPLY).body(object.clone()).by(writer).send(client).await
}

/// An object, or none.
pub async fn get(client: &Client, path: &str) -> anyhow::Result<Option<Value>> {
    let answer = Call::new(Method::GET, path).send(client).await?;
    match answer.code {
        404 => Ok(None),
        _ if answer.ok() => Ok(Some(answer.body)),
        _ => anyhow::bail!("GET {path}: {} {}", answer.code, answer.message()),
    }
}
