//! Reviews that are answered at the same moment.

use futures::future::join_all;

use super::*;
use crate::admit::fixture::{Reply, create_scaled_object};
use crate::policy::Bounds;

/// Nothing is stored, whoever is let through: neither an index nor a live read tells of the others.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_scaled_objects_for_one_cluster_one_is_let_through() {
    let mut fixture = Fixture::new::<String, Reply>([]);
    for round in 0..50 {
        fixture = fixture.knows(&format!("c{round}"), "1", Bounds::default());
    }
    let routes = routes(fixture);
    for round in 0..50 {
        let answers = join_all((0..8).map(|number| {
            let (routes, review) =
                (routes.clone(), create_scaled_object(&format!("s{number}"), &format!("c{round}")));
            tokio::spawn(async move { Answer::from_routes(&routes, VALIDATE_SCALED_OBJECT, &review).await })
        }));
        let answers: Vec<_> = answers.await.into_iter().map(Result::unwrap).collect();
        let winner = answers.iter().position(Answer::allowed).unwrap_or_else(|| panic!("{answers:?}"));
        for (number, loser) in answers.iter().enumerate().filter(|(number, _)| *number != winner) {
            assert_eq!((loser.allowed(), loser.code()), (false, 422), "{number}: {loser:?}");
            assert!(loser.message().contains(&format!("ScaledObject \"s{winner}\"")), "{number}: {loser:?}");
        }
    }
}
