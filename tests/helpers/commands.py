"""Short command lines for the tiny model of the fixture `workplace`."""

FINETUNE = "finetune --model=tiny --dataset_path=story.txt --length=32 --num_epoch=1 --steps_per_epoch=1"
PROMPTS = "generate --model_path=models/tiny --output_length=2"
GENERATE = "generate --model_path=models/tiny --starter=The --output_length=2"
