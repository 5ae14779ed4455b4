"""The words of the demo's world: what customers complain of and what agents write.

Templates hold the slot `{item}` (the product of the ticket) and, in customers' texts, `{other}` (another
product) and `{order}`. No item's name is part of another's, and no problem template fits two issues: both
are tested.
"""

ITEMS: tuple[str, ...] = (
    "kettle", "toaster", "blender", "desk lamp", "heater", "fan", "printer", "router", "keyboard", "monitor",
    "camera", "phone", "tablet", "speaker", "headset", "watch", "radio", "projector", "drill", "mower",
    "vacuum", "iron", "mixer", "oven", "fridge", "freezer", "washer", "hair dryer", "scale", "alarm clock",
    "drone", "scooter", "treadmill", "humidifier", "thermostat", "doorbell", "charger", "rice cooker",
    "coffee machine", "game console",
)  # fmt: skip

# issue -> how customers put it
PROBLEMS: dict[str, tuple[str, ...]] = {
    "damaged": (
        "My {item} arrived broken.",
        "The {item} came with a big crack in it.",
        "The box was crushed and the {item} inside is damaged.",
        "I opened the parcel and the {item} was in pieces.",
        "The {item} you sent me is smashed.",
        "There is a deep dent in my new {item}.",
    ),
    "wrong_item": (
        "I ordered a new {item} but you sent me the {other}.",
        "You sent the wrong model of the {item}.",
        "There was a {other} in the box, not my {item}.",
        "The {item} I got is not the one I ordered.",
        "I asked for a white {item} and got a black one.",
        "This is the wrong size of {item}.",
    ),
    "late": (
        "My {item} has still not arrived.",
        "Where is my {item}?",
        "I have been waiting two weeks for the {item}.",
        "The {item} should have been here on Monday.",
        "I never got the {item} I bought.",
        "The delivery of my {item} is very late.",
    ),
    "double_charge": (
        "I was charged twice for the {item}.",
        "You took the money for the {item} two times.",
        "My bank shows two payments for one {item}.",
        "I paid double for the {item}.",
        "There is a second charge for my {item} on the card.",
        "Why did I pay for the {item} twice?",
    ),
    "missing_part": (
        "The {item} came without the cable.",
        "A part of my {item} is missing.",
        "There are no screws in the box of the {item}.",
        "The lid of the {item} was not in the parcel.",
        "My {item} lacks one of its parts.",
        "I got the {item} but not the stand that belongs to it.",
    ),
    "cancel": (
        "I want to cancel the {item}.",
        "Please stop my order for the {item}.",
        "I ordered the {item} by mistake and do not want it to be shipped.",
        "Can you call off the {item} before it ships?",
        "I no longer need the {item}, so do not send it.",
        "Please drop the {item} from my order.",
    ),
    "invoice": (
        "The invoice for the {item} has the wrong company name.",
        "The bill for my {item} shows the wrong tax number.",
        "My invoice does not list the {item}.",
        "The name on the bill of the {item} is wrong.",
        "I need a correct invoice for the {item}.",
        "The price on the invoice of the {item} is not right.",
    ),
    "return": (
        "I do not like the {item} and want to send it back.",
        "How can I return the {item}?",
        "The {item} is too loud for me and I would like to give it back.",
        "I want to return my {item}.",
        "The {item} does not fit my room, can I send it back?",
        "My wife bought the same {item}, so this one must go back.",
    ),
    "setup": (
        "I cannot get the {item} to start.",
        "The {item} does not turn on.",
        "My {item} only blinks red.",
        "I pressed every button and the {item} does nothing.",
        "The screen of my {item} stays dark.",
        "How do I get the {item} running?",
    ),
    "address": (
        "I have moved and the {item} goes to the old address.",
        "Please send the {item} to my office and not to my home.",
        "I gave the wrong street for the {item}.",
        "The {item} must go to a new address.",
        "My house number is wrong in the order of the {item}.",
        "Can the {item} be delivered to my neighbour?",
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
        "I am sending you a new {item} free of charge.",
        "We will replace the {item} at no cost.",
        "I have arranged a replacement for the {item}.",
    ),
    "exchange": (
        "I am sending you the right {item} and we will collect the other one.",
        "We will swap it for the {item} you ordered.",
        "I have booked an exchange for the right {item}.",
    ),
    "track": (
        "I have traced the parcel and the {item} is at the depot near you.",
        "I have asked the carrier to find the {item}.",
        "I have checked the tracking and the {item} is on the van.",
    ),
    "refund": (
        "I have refunded the second payment for the {item}.",
        "We will pay the extra charge for the {item} back to your card.",
        "I have sent the money you paid twice for the {item} back to your bank.",
    ),
    "send_part": (
        "I am sending you the missing part for the {item}.",
        "We will post the missing piece of the {item} to you.",
        "I have ordered the part that is missing from the {item} for you.",
    ),
    "cancel_order": (
        "I have cancelled the order for the {item}.",
        "We will stop the {item} before it ships and pay you back.",
        "I have taken the {item} off your order.",
    ),
    "fix_invoice": (
        "I have corrected the invoice for the {item}.",
        "We will write a new invoice for the {item}.",
        "I have put the details right on the bill for the {item}.",
    ),
    "return_label": (
        "I am sending you a free return label for the {item}.",
        "We will pick up the {item} at your door and pay you back.",
        "I have opened a return for the {item}.",
    ),
    "reset": (
        "Please hold the power button of the {item} for ten seconds.",
        "Please unplug the {item} for one minute and then start it again.",
        "I will guide you through a reset of the {item}.",
    ),
    "readdress": (
        "I have changed the delivery address for the {item}.",
        "We will send the {item} to the new address.",
        "I have told the driver the new address for the {item}.",
    ),
}

RIGHT_ACTION: dict[str, str] = {
    "damaged": "replace",
    "wrong_item": "exchange",
    "late": "track",
    "double_charge": "refund",
    "missing_part": "send_part",
    "cancel": "cancel_order",
    "invoice": "fix_invoice",
    "return": "return_label",
    "setup": "reset",
    "address": "readdress",
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
