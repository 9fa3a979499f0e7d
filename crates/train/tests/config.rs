//! Settings of trainings that older versions wrote.

use steer3d_dataset::Turns;
use steer3d_train::TrainConfig;

#[test]
fn the_rotations_of_older_training_settings_are_understood() {
    let of = |text: &str| {
        let json = format!(
            r#"{{"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "weight_decay": 0.0, "seed": 1{text}}}"#
        );
        serde_json::from_str::<TrainConfig>(&json).unwrap().augment
    };
    let all = Some(Turns::So3 { fraction: 1.0 });
    assert_eq!([of(r#", "rotate": true"#), of(r#", "rotate": false"#), of("")], [all, None, None]);
    let set = Some(Turns::Z { fraction: 0.5 });
    let config = TrainConfig { augment: set, ..TrainConfig::default() };
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<TrainConfig>(&text).unwrap(), config);
}
