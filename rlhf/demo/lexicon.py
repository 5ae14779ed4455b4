"""The words of the demo's world: what customers complain of and what agents write.

Templates hold the slot `{item}` (the product of the ticket) and, in customers' texts, `{order}`. No item's name is part
of another's, and no problem template fits two issues: both are tested.
"""

ITEMS: tuple[str, ...] = (
    "kettle", "toaster", "blender", "desk lamp", "heater", "fan", "printer", "router", "keyboard", "monitor",
    "camera", "phone", "tablet", "speaker", "headset", "watch", "radio", "projector", "drill", "mower",
    "vacuum", "iron", "mixer", "oven", "fridge", "freezer", "washer", "hair dryer", "scale", "alarm clock",
    "drone", "scooter", "treadmill", "humidifier", "thermostat", "doorbell", "charger", "rice cooker",
    "coffee machine", "game console",
)  # fmt: skip

# issue -> how customers put it. Customer and agent share a word of the matter ("broken", "twice", "invoice"), as they
# do in life, and a model this small can see by it what belongs together.
PROBLEMS: dict[str, tuple[str, ...]] = {
    "damaged": (
        "My {item} arrived broken.",
        "The {item} in the parcel is broken.",
        "I opened the box and the {item} was broken.",
        "The {item} you sent me is broken.",
        "The case of my new {item} is broken.",
        "You sent me a broken {item}.",
    ),
    "late": (
        "The delivery of my {item} is late.",
        "I am still waiting for the delivery of the {item}.",
        "Where is the delivery with my {item}?",
        "There was no delivery of the {item} this week.",
        "The delivery of the {item} was due on Monday.",
        "Two weeks and no delivery of my {item}.",
    ),
    "double_charge": (
        "I was charged twice for the {item}.",
        "You took the money for the {item} twice.",
        "I paid twice for the {item}.",
        "My bank says that I paid twice for one {item}.",
        "The {item} is on my card twice.",
        "Why did I pay for the {item} twice?",
    ),
    "missing_part": (
        "A part of my {item} is missing.",
        "The {item} came without one part.",
        "My {item} lacks a part.",
        "There is a part missing in the box of the {item}.",
        "I got the {item} but not the part that holds it.",
        "One part of the {item} was not in the parcel.",
    ),
    "return": (
        "I want to return my {item}.",
        "How can I return the {item}?",
        "I do not like the {item} and want to return it.",
        "The {item} is too loud and I would like to return it.",
        "Can I return the {item} if it does not fit?",
        "My wife bought the same {item}, so I must return mine.",
    ),
}

OPENINGS: tuple[str, ...] = (
    "Hi.",
    "Hello.",
    "Good morning.",
    "Hello support.",
    "Dear team.",
    "Hey.",
    "",
    "",
    "",
)
DETAILS: tuple[str, ...] = (
    "My order is {order}.",
    "Order {order}.",
    "This is about order {order}.",
    "It was a present for my mother.",
    "I bought it last week.",
    "I am an old customer of yours.",
    "",
    "",
    "",
)
MOODS: tuple[str, ...] = (
    "I am quite annoyed.",
    "This is the second time!",
    "Please help me.",
    "Thanks in advance.",
    "Can you help?",
    "I am really angry about this.",
    "What can we do?",
    "I am not happy.",
    "",
    "",
)

# action -> how an agent commits to it; one action settles one issue
ACTIONS: dict[str, tuple[str, ...]] = {
    "replace": (
        "I am sending you a new {item} for the broken one.",
        "We will replace the broken {item} at no cost.",
        "I have arranged a replacement for the broken {item}.",
    ),
    "track": (
        "I have traced the delivery and the {item} is at the depot near you.",
        "I have asked the carrier about the delivery of the {item}.",
        "I have checked the delivery and the {item} is on the van.",
    ),
    "refund": (
        "I have refunded what you paid twice for the {item}.",
        "We will pay back the money we took twice for the {item}.",
        "I have sent the money you paid twice for the {item} back to your bank.",
    ),
    "send_part": (
        "I am sending you the missing part for the {item}.",
        "We will post the part of the {item} to you.",
        "I have ordered the part that is missing from the {item} for you.",
    ),
    "return_label": (
        "I am sending you a free return label for the {item}.",
        "We will pick up your return of the {item} at the door.",
        "I have opened a return for the {item}.",
    ),
}

RIGHT_ACTION: dict[str, str] = {
    "damaged": "replace",
    "late": "track",
    "double_charge": "refund",
    "missing_part": "send_part",
    "return": "return_label",
}

GREETINGS: tuple[str, ...] = ("Hello.", "Hi there.", "Good day.", "Dear customer.")
EMPATHY: tuple[str, ...] = (
    "I am sorry about the trouble with the {item}.",
    "I am very sorry to hear this.",
    "Thank you for telling us about the {item}.",
    "I can see how annoying this is.",
    "Thank you for writing to us.",
)
NEXT_STEPS: tuple[str, ...] = (
    "You will get an email within one day.",
    "It will be done by Friday.",
    "This takes two days at most.",
    "You will hear from me tomorrow.",
)
CLOSINGS: tuple[str, ...] = (
    "Kind regards.",
    "Have a nice day.",
    "Write to me if you need anything else.",
    "Best wishes.",
)

# The polite reply that does nothing: it stalls.
STALLS: tuple[str, ...] = (
    "Your message is important to us.",
    "We value your opinion about the {item}.",
    "We will look into it when we can.",
    "Thank you for your patience.",
    "We are always happy to hear from our customers.",
    "Somebody may come back to you some time.",
)
REFUSALS: tuple[str, ...] = (
    "There is nothing we can do.",
    "We cannot help you with the {item}.",
    "That is not possible.",
    "Our rules do not allow that.",
)
RUDE: tuple[str, ...] = (
    "This is your own fault.",
    "You should have read the page about the {item}.",
    "Nobody else complains about the {item}.",
    "What do you expect at this price?",
    "Do not write to us again.",
)
OFF_TOPIC: tuple[str, ...] = (
    "Have you seen our summer sale?",
    "Our shop has many other things too.",
    "You can win a prize if you rate us.",
    "Follow us for more news.",
)
RAMBLE: tuple[str, ...] = (
    "As you may know there are many ways to see this.",
    "To be honest it is a long story.",
    "In the end it all depends on one thing or the other.",
    "I was just talking about the {item} with somebody here.",
)

# How customers answer a reply in a forum thread; the base model reads these, support logs have none.
SOLVED: tuple[str, ...] = ("Thanks, that is what I needed.", "Great, that solves it.", "Perfect, thank you.")
UNSOLVED: tuple[str, ...] = (
    "No, that does not help me.",
    "This is not what I asked for.",
    "I still have no solution.",
)
CONFUSED: tuple[str, ...] = ("Which of these is it now?", "That is too much at once.")
OFFENDED: tuple[str, ...] = ("There is no need to be rude.", "What a rude answer.")
