//! End-to-end tests on a real control plane.
//!
//! Reading order: [`suite`] (what all of them share), then one file a topic. The testbed's own promises stand in
//! [`plane_itself`]; most others share one plane with KEDA, Prometheus and the operator, and run one after the other, each
//! in a namespace of its own.

mod admission;
mod availability;
mod bench_abuse;
mod bench_admission;
mod bench_control;
mod bench_scaler;
mod certificates;
mod chart;
mod client_certificates;
mod closed_loop;
mod daily_use;
mod dashboard;
mod docs;
mod doctor;
mod explain;
mod image;
mod interference;
mod keda_optional;
mod leadership;
mod lint;
mod manifests;
mod matrix;
mod messages;
mod operator_down;
mod owned;
mod plane_itself;
mod removal;
mod samples;
mod scaled_objects;
mod scaler_trust;
mod scaling;
mod steady_state;
mod suite;
mod transitions;
mod workflows;
mod workload;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use libtest_mimic::{Arguments, Failed, Trial};
use testbed::availability::Kind;

use suite::{Scenario, Suite};

fn main() -> ExitCode {
    let editors: &[suite::Editor] =
        &[(manifests::EDITOR, manifests::edited), (workflows::edit::EDITOR, workflows::edit::edited)];
    if let Some(code) = suite::edit_as_kubectls_editor(editors) {
        return code;
    }
    let mut arguments = Arguments::from_args();
    // One plane at a time: two cores hold no more, and scenarios stop the operator that others need.
    arguments.test_threads = Some(1);
    let suite = Arc::new(Suite::new());
    let trials = shared()
        .into_iter()
        .map(|(name, scenario)| {
            let suite = Arc::clone(&suite);
            Trial::test(name, move || timed(name, || suite.run(scenario)))
        })
        .chain(
            alone()
                .into_iter()
                .map(|(name, scenario)| Trial::test(name, move || timed(name, || suite::alone(scenario)))),
        )
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    suite.end(!conclusion.has_failed());
    conclusion.exit_code()
}

/// Tells how long a scenario took: all of them together have their time.
fn timed(name: &str, scenario: impl FnOnce() -> Result<(), Failed>) -> Result<(), Failed> {
    let begun = Instant::now();
    let ended = scenario();
    eprintln!("{:7.1} s  {name}", begun.elapsed().as_secs_f64());
    ended
}

/// Scenarios on the shared plane, in the order in which they run.
fn shared() -> Vec<(&'static str, Scenario)> {
    vec![
        ("daily_use::scale_by_hand_reaches_pods_and_status", |plane| {
            Box::pin(daily_use::scale_by_hand(plane))
        }),
        ("daily_use::a_scaled_object_and_its_hpa_are_shown", |plane| {
            Box::pin(daily_use::scaled_object_and_hpa(plane))
        }),
        ("manifests::least_manifests_are_accepted", |plane| Box::pin(manifests::least_manifests(plane))),
        ("manifests::a_count_that_leaves_the_manifest_stays", |plane| {
            Box::pin(manifests::count_leaves(plane))
        }),
        ("samples::each_is_taken_and_serves", |plane| Box::pin(samples::all(plane))),
        ("admission::counts_outside_of_a_range_are_refused", |plane| {
            Box::pin(admission::outside_of_a_range(plane))
        }),
        ("admission::an_autoscaler_is_moved_to_the_bound", |plane| {
            Box::pin(admission::autoscaler_is_moved(plane))
        }),
        ("scaled_objects::what_is_left_out_is_filled_in", |plane| Box::pin(scaled_objects::filled_in(plane))),
        ("scaled_objects::what_cannot_work_is_refused", |plane| Box::pin(scaled_objects::refused(plane))),
        ("scaled_objects::one_at_a_time", |plane| Box::pin(scaled_objects::one_at_a_time(plane))),
        ("scaled_objects::a_partial_overlap_shows_on_the_cluster", |plane| {
            Box::pin(scaled_objects::conflict_is_shown(plane))
        }),
        ("matrix::every_write_is_decided_by_who_must", |plane| Box::pin(matrix::whole(plane))),
        ("scaled_objects::with_the_operator_down", |plane| Box::pin(scaled_objects::operator_down(plane))),
        ("lint::a_cluster_is_the_rest_of_the_world", |plane| Box::pin(lint::live(plane))),
        ("closed_loop::load_scales_up_and_its_end_scales_down", |plane| {
            Box::pin(closed_loop::up_and_down(plane))
        }),
        ("explain::through_its_states", |plane| Box::pin(explain::through_its_states(plane))),
        ("docs::documents_about_clusters_are_true", |plane| Box::pin(docs::about_clusters(plane))),
        ("workflows::side_by_side", |plane| Box::pin(workflows::side_by_side(plane))),
        ("workflows::two_scaled_objects_at_once", |plane| Box::pin(workflows::race::two_at_once(plane))),
        ("workflows::keda_writes_all_hpas_anew", |plane| {
            Box::pin(workflows::handover::all_written_anew(plane))
        }),
        ("workflows::deletion_in_every_order_while_down", |plane| {
            Box::pin(workflows::deletion::while_down(plane))
        }),
        ("workflows::unpaused_while_down", |plane| Box::pin(workflows::outage::unpaused(plane))),
        ("messages::as_the_tools_show_them", |plane| Box::pin(messages::all(plane))),
        ("workload::every_reason_has_its_cause", |plane| Box::pin(workload::reasons::whole(plane))),
        ("workload::servers_that_go_cut_nothing_off", |plane| {
            Box::pin(workload::drain::nothing_is_cut_off(plane))
        }),
        ("workload::every_part_of_the_drain_is_needed", |plane| {
            Box::pin(workload::shortened::each_part_is_needed(plane))
        }),
        ("workload::models_are_kept", |plane| Box::pin(workload::cache::claims(plane))),
        ("workload::what_comes_and_goes_with_a_change", |plane| Box::pin(workload::changes::whole(plane))),
        ("scaling::by_each_signal_of_the_servers", |plane| Box::pin(scaling::servers::each_signal(plane))),
        ("scaling::by_the_original_manifest", |plane| Box::pin(scaling::original::works(plane))),
        ("scaling::missing_data_takes_nothing_away", |plane| {
            Box::pin(scaling::missing::takes_nothing_away(plane))
        }),
        ("scaling::nobody_else_is_asked", |plane| Box::pin(scaling::isolation::asks_nobody_else(plane))),
        ("leadership::all_answer_and_one_leads", |plane| Box::pin(leadership::all_answer(plane))),
        ("leadership::a_killed_leader_is_followed", |plane| Box::pin(leadership::killed(plane))),
        ("leadership::a_leader_hands_over", |plane| Box::pin(leadership::handed_over(plane))),
        ("leadership::a_paused_leader_writes_nothing", |plane| Box::pin(leadership::paused(plane))),
        ("steady_state::a_restart_writes_nothing", |plane| Box::pin(steady_state::restart(plane))),
        ("removal::a_deleted_statefulset_comes_back", |plane| {
            Box::pin(removal::statefulset_comes_back(plane))
        }),
        ("removal::orphans_are_adopted", |plane| Box::pin(removal::orphans_are_adopted(plane))),
        ("removal::a_deleted_cluster_leaves_nothing", |plane| {
            Box::pin(removal::cluster_leaves_nothing(plane))
        }),
        ("operator_down::the_schema_holds_the_bounds", |plane| Box::pin(operator_down::schema_holds(plane))),
        ("operator_down::a_namespace_goes_without_it", |plane| {
            Box::pin(operator_down::namespace_goes(plane))
        }),
        ("dashboard::every_panel_moves", |plane| Box::pin(dashboard::every_panel_moves(plane))),
        ("scaling::bad_days_scale_nothing", |plane| Box::pin(scaling::bad_days::scale_nothing(plane))),
        ("certificates::a_cleared_bundle_is_put_back", |plane| Box::pin(certificates::cleared_bundle(plane))),
        ("certificates::a_lost_authority_is_made_anew", |plane| {
            Box::pin(certificates::lost_authority(plane))
        }),
        ("scaler_trust::is_kept_whatever_becomes_of_it", |plane| Box::pin(scaler_trust::kept(plane))),
        ("certificates::a_rotation_loses_no_write", |plane| Box::pin(certificates::rotation(plane))),
        // These leave the StatefulSet controller in debt: its queue tries again ten times a second for all StatefulSets
        // together, and what is refused after hundreds of retries waits for minutes.
        ("transitions::every_change_ends_as_a_fresh_creation", |plane| {
            Box::pin(transitions::every_change(plane))
        }),
        ("interference::every_field_comes_back", |plane| Box::pin(interference::every_field(plane))),
        ("interference::every_object_comes_back", |plane| Box::pin(interference::every_object(plane))),
        ("interference::what_is_of_others_stays", |plane| Box::pin(interference::what_is_of_others(plane))),
    ]
}

/// Scenarios that start what they need by themselves.
fn alone() -> Vec<(&'static str, suite::Alone)> {
    vec![
        ("docs::nothing_is_left_out", || Box::pin(async { docs::nothing_is_left_out() })),
        ("image::is_assembled_and_serves_alone", || Box::pin(image::assembled_and_lived_in())),
        ("docs::a_newcomer_comes_from_an_empty_home_to_a_demo", || Box::pin(docs::newcomers_path())),
        ("docs::documents_of_an_installation_are_true", || Box::pin(docs::of_an_installation())),
        ("keda_optional::keda_comes_and_goes", || Box::pin(keda_optional::comes_and_goes())),
        ("client_certificates::are_demanded_of_the_api_server", || Box::pin(client_certificates::demanded())),
        ("chart::what_is_generated_is_current", || Box::pin(chart::generated::is_current())),
        ("chart::kustomize_is_the_same", || Box::pin(chart::generated::kustomize_is_the_same())),
        ("chart::values_are_checked", || Box::pin(chart::generated::values_are_checked())),
        ("chart::answers_and_is_what_was_rendered", || {
            Box::pin(chart::install::answers_and_is_what_was_rendered())
        }),
        ("chart::each_right_is_needed_and_all_are_enough", || {
            Box::pin(chart::rights::each_is_needed_and_all_are_enough())
        }),
        ("chart::upgraded_and_removed", || Box::pin(chart::lifecycle::upgraded_and_removed())),
        ("doctor::finds_what_is_broken", || Box::pin(doctor::finds_what_is_broken())),
        ("plane_itself::two_planes_stand_side_by_side", || {
            Box::pin(plane_itself::two_planes_stand_side_by_side())
        }),
        ("plane_itself::nothing_outlives_a_killed_owner", || {
            Box::pin(plane_itself::nothing_outlives_a_killed_owner())
        }),
        ("plane_itself::a_component_that_dies_ends_its_plane", || {
            Box::pin(plane_itself::a_component_that_dies_ends_its_plane())
        }),
        ("plane_itself::a_plane_that_was_let_go_stays_until_down", || {
            Box::pin(plane_itself::a_plane_that_was_let_go_stays_until_down())
        }),
        ("bench_abuse::a_short_one", || Box::pin(bench_abuse::short())),
        ("bench_admission::a_short_one", || Box::pin(bench_admission::short())),
        ("bench_control::a_small_one", || Box::pin(bench_control::small())),
        ("bench_scaler::a_short_one", || Box::pin(bench_scaler::short())),
        ("availability::rotations_lose_nothing", || Box::pin(availability::row(Kind::Rotations, 2))),
        ("availability::rolling_restarts_lose_nothing", || Box::pin(availability::row(Kind::Restarts, 1))),
        ("availability::another_leads_in_time", || Box::pin(availability::row(Kind::Kills, 4))),
        ("availability::outages_pass", || Box::pin(availability::row(Kind::Outages, 2))),
        ("plane_itself::a_warm_start_is_ready_in_time", || {
            Box::pin(plane_itself::a_warm_start_is_ready_in_time())
        }),
    ]
}
