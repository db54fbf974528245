"""The names of the files that belong to a model beside its weights."""

from gpt_tf2.checkpoints import chat_templates, peft, transformers_settings, vocabularies
from gpt_tf2.tasks import chat_template
from gpt_tf2.vocabularies import reading

OF_VOCABULARY = (*vocabularies.ENCODER, *vocabularies.MERGES, vocabularies.WHOLE, *reading.BESIDE)
OF_MODEL = (chat_template.FILE, chat_templates.JINJA, "hparams.json", *transformers_settings.FILES)
OF_ADAPTERS = (peft.SETTINGS,)
