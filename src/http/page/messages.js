"use strict"; // messages
